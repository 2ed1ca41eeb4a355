"""Pushing a finished adapter to a model hub."""

from pathlib import Path

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.training.training_config import HubTable


def push_adapter(folder: Path, hub: HubTable) -> str:
    """Upload an adapter folder, and return the address of the repository.

    The access token is the one that ``hf auth login`` or HF_TOKEN gave; a config file is no place
    for a secret.

    Raises:
        InputError: The hub cannot be reached or refuses; the adapter stays where it is.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.endpoint)
    name = escape(hub.repo_id, 100)
    try:
        address = api.create_repo(hub.repo_id, private=hub.private, exist_ok=True)
        api.upload_folder(repo_id=hub.repo_id, folder_path=folder)
    except Exception as error:  # whatever the hub's client raises of a network
        raise InputError(
            f"the adapter is saved in {folder}, but pushing it to {name} failed "
            f"({escape(str(error), 200)}); push it with: hf upload {name} {folder}"
        ) from error
    return str(address)
