"""Downloads a base from the Hugging Face hub."""

from pathlib import Path

from phi3_lora_qa.errors import BaseModelError, escape

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]
"""What loading needs: no code and no pickles."""


def download_base(identifier: str) -> Path:
    """Download the files that loading needs, unless they are in the hub's cache; return the folder.

    Args:
        identifier: The id of a base on the hub.

    Raises:
        BaseModelError: It cannot be downloaded.
        MissingDependencyError: huggingface_hub is not installed.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(identifier, allow_patterns=_FILES))
    except Exception as error:  # the hub's client has many kinds of failure
        reason = " ".join(str(error).split())
        raise BaseModelError(
            f"cannot download {identifier}: {type(error).__name__}: {escape(reason, 300)}; "
            "check the network, or download it elsewhere and pass its folder"
        ) from error
