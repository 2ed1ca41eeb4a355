"""Pushing a finished adapter to a model hub."""

from pathlib import Path

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.training.training_config import HubTable


def push_adapter(folder: Path, hub: HubTable) -> str:
    """Upload an adapter folder, and return the address of the repository.

    The access token comes from ``hf auth login`` or HF_TOKEN; secrets do not belong in a config.

    Raises:
        InputError: The hub is unreachable or refuses the upload; the local adapter is kept.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.endpoint)
    name = escape(hub.repo_id, 100)
    try:
        address = api.create_repo(hub.repo_id, private=hub.private, exist_ok=True)
        api.upload_folder(repo_id=hub.repo_id, folder_path=folder)
    except Exception as error:  # the hub's client passes on many kinds of network errors
        raise InputError(
            f"the adapter is saved in {folder}, but pushing it to {name} failed "
            f"({escape(str(error), 200)}); push it with: hf upload {name} {folder}"
        ) from error
    return str(address)
