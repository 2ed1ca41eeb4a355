"""The class of transformers that loads a base, from the table of architectures only."""

from collections.abc import Mapping
from typing import Any

from phi3_lora_qa.adapter.architecture import architecture_of
from phi3_lora_qa.adapter.base_files import unknown_architecture
from phi3_lora_qa.errors import BaseModelError


def causal_lm_class(config: Mapping[str, Any]) -> Any:
    """Return the class for the model that a config.json describes; no remote code is used.

    Args:
        config: The content of the config.json.

    Raises:
        BaseModelError: The architecture is not in the table.
    """
    import transformers

    architecture = architecture_of(config)
    if architecture is None:
        raise BaseModelError(unknown_architecture("the base", config))
    return getattr(transformers, architecture.class_name)
