"""Ids of models on the hub, without their owner and the precision or layout of an upload."""

import re

_VARIANT = re.compile(
    r"[-_.](unsloth|bnb|mlx|hf|gguf|gptq|awq|[48]bits?|int[48]|nf4|fp4|fp8|bf16|fp16|w[48]a\d+"
    r"|quantized|dynamic)(?=[-_.]|$)"
)


def model_of(identifier: str) -> str:
    """Return the model that an id means.

    Args:
        identifier: The id of a model, such as ``owner/Name-bnb-4bit``.

    Returns:
        Its name in lower case, without its owner, and without what an upload in another precision
        or layout adds.

    Example:
        >>> model_of("unsloth/Phi-3-mini-4k-instruct-bnb-4bit")
        'phi-3-mini-4k-instruct'
    """
    return _VARIANT.sub("", identifier.rpartition("/")[2].lower())
