"""The class of transformers that loads a base, from the table of architectures only."""

from collections.abc import Mapping
from typing import Any

from phi3_lora_qa.adapter.architecture import PHI3, Architecture, architecture_of


def base_architecture(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a base.

    Args:
        config: From `read_base_config`. It is empty for a known base that is not on this machine,
            and all of these are Phi-3s.
    """
    return architecture_of(config) or PHI3


def causal_lm_class(config: Mapping[str, Any]) -> Any:
    """Return transformers' class for a base; no remote code is used.

    Args:
        config: As for `base_architecture`.
    """
    import transformers

    return getattr(transformers, base_architecture(config).class_name)
