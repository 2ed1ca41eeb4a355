"""The name of the base in a converted adapter's config: a public id, never a path."""

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.model_id import model_of
from phi3_lora_qa.models.hub_base import is_hub_id
from phi3_lora_qa.models.registry import find_known, known_bases


def public_base_name(identity: str, files: BaseFiles, trained_on: str = "") -> str:
    """Return the id to write as base_model_name_or_path; empty if none is known.

    Args:
        identity: The id under which the base was found: a known name or a path.
        files: The base.
        trained_on: The base that the source of the conversion names.

    Returns:
        The first public name of: the base that was passed, its folder in the hub's cache, its own
        config, the known base of which ``trained_on`` is a copy, and ``trained_on``.

    Example:
        >>> from phi3_lora_qa.models.registry import bundled
        >>> files = BaseFiles.open(bundled("tiny/base"))
        >>> public_base_name("/models/x", files, "unsloth/Phi-3.5-mini-instruct-bnb-4bit")
        'microsoft/Phi-3.5-mini-instruct'
    """
    if find_known(identity) or is_hub_id(identity):
        return identity
    names = (files.public_id, known_original(trained_on), trained_on)
    return next((name for name in names if find_known(name) or is_hub_id(name)), "")


def known_original(name: str) -> str:
    """Return the id of the known base on the hub of which a model is a copy, judging by its name.

    Args:
        name: The id of a model, such as ``unsloth/Phi-3-mini-4k-instruct-bnb-4bit``.

    Returns:
        The id; empty if no known base has this name.

    Example:
        >>> known_original("mlx-community/Phi-3-mini-4k-instruct-4bit")
        'microsoft/Phi-3-mini-4k-instruct'
    """
    on_hub = (known.id for known in known_bases() if known.source == "hub")
    return next((known for known in on_hub if model_of(known) == model_of(name)), "")
