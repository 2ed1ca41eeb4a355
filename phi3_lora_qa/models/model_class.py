"""The class of transformers that loads a base, from the table of architectures only."""

from typing import Any

from phi3_lora_qa.adapter.architecture import Architecture


def causal_lm_class(architecture: Architecture) -> Any:
    """Return transformers' class for the models of an architecture."""
    import transformers

    return getattr(transformers, architecture.class_name)
