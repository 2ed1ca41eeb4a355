"""The named blocks of fused layers, and masks over them in loralib's terms.

Phi-3's ``qkv_proj`` stacks the rows of q, k and v, and ``gate_up_proj`` those of gate and up.
loralib's MergedLinear supports only blocks of one size. With grouped-query attention q is larger
than k and v; the block size is then the greatest common divisor of the sizes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.lora.fused import Layout, gate_up_layout, qkv_layout

Blocks = Mapping[str, int]
"""The rows of each block of a fused layer, in order."""

Mask = Mapping[str, bool] | Sequence[bool]
"""The enabled blocks: by name, or as loralib's own ``enable_lora``."""


def phi3_layouts(config: Mapping[str, object]) -> Mapping[str, Layout]:
    """Return the parts of Phi-3's fused layers.

    Args:
        config: The content of a config.json.

    Returns:
        The layout by the layer's last name; empty for other architectures.

    Raises:
        InputError: A size is missing from the config.

    Example:
        >>> config = {"model_type": "phi3", "hidden_size": 64, "num_attention_heads": 4,
        ...           "num_key_value_heads": 2, "intermediate_size": 96}
        >>> [block.rows for block in phi3_layouts(config)["qkv_proj"]]
        [64, 32, 32]
    """
    if config.get("model_type") != "phi3":
        return {}
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    groups = _size(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    head = _size(config, "head_dim") if config.get("head_dim") else hidden // heads
    return {
        "qkv_proj": qkv_layout(heads=heads, kv_heads=groups, head_dim=head),
        "gate_up_proj": gate_up_layout(intermediate=_size(config, "intermediate_size")),
    }


def phi3_blocks(config: Mapping[str, object]) -> Mapping[str, Blocks]:
    """Return the rows of q, k, v and of gate, up.

    Args:
        config: The content of a config.json.

    Returns:
        The rows by the block's name, by the fused layer's last name; empty for other architectures.

    Raises:
        InputError: A size is missing from the config.

    Example:
        >>> config = {"model_type": "phi3", "hidden_size": 64, "num_attention_heads": 4,
        ...           "num_key_value_heads": 2, "intermediate_size": 96}
        >>> phi3_blocks(config)["gate_up_proj"]
        {'gate': 96, 'up': 96}
    """
    return {
        name: {block.name.removesuffix("_proj"): block.rows for block in layout}
        for name, layout in phi3_layouts(config).items()
    }


def expand_mask(mask: Mask, blocks: Blocks, count: int | None = None) -> tuple[bool, ...]:
    """Return loralib's ``enable_lora`` for a mask.

    Args:
        mask: True or false for every block by name; or an ``enable_lora``, returned unchanged.
        blocks: The rows of each named block.
        count: The required number of equal blocks; as few as possible if None.

    Returns:
        One flag for each equal block.

    Raises:
        InputError: A name is unknown or missing, no block is enabled, or ``count`` equal blocks
            would cut a named block.

    Example:
        >>> expand_mask({"q": True, "k": False, "v": True}, {"q": 64, "k": 32, "v": 32})
        (True, True, False, True)
    """
    flags = list(mask.values()) if isinstance(mask, Mapping) else list(mask)
    if any(type(on) is not bool for on in flags):
        wrong = next(on for on in flags if type(on) is not bool)
        raise InputError(
            f"a mask must contain only true and false: got {escape(str(wrong), 60)}; "
            "pass one of them for each block"
        )
    if not isinstance(mask, Mapping):
        return _require_any(tuple(mask))
    unknown = [name for name in mask if name not in blocks]
    if unknown:
        fix = f"use {', '.join(blocks)}" if blocks else "pass the mask as a list, in order"
        raise InputError(f"unknown block in the mask: '{escape(unknown[0], 60)}'; {fix}")
    missing = [name for name in blocks if name not in mask]
    if missing:
        raise InputError(f"the mask lacks the block {missing[0]}; set it to true or false")
    total = sum(blocks.values())
    size = math.gcd(*blocks.values()) if count is None else total // count
    if total % size or any(rows % size for rows in blocks.values()):
        sizes = ", ".join(f"{name} {rows}" for name, rows in blocks.items())
        raise InputError(
            f"{count} equal blocks of {size} rows do not fit the blocks {sizes}; "
            "pass the mask as a list, one value for each equal block"
        )
    return _require_any(
        tuple(on for name in blocks for on in [mask[name]] * (blocks[name] // size))
    )


def find_mask(module: str, masks: Mapping[str, Mask]) -> Mask | None:
    """Return the first mask whose key matches the module; None if there is none."""
    return next((mask for key, mask in masks.items() if matches_suffix(module, key)), None)


def require_used(masks: Mapping[str, Mask], modules: Iterable[str]) -> None:
    """Raise InputError for a mask that matches none of the modules."""
    names = list(modules)
    for key in masks:
        if not any(matches_suffix(name, key) for name in names):
            raise InputError(f"the mask '{escape(key, 80)}' matches no layer; remove or rename it")


def _require_any(mask: tuple[bool, ...]) -> tuple[bool, ...]:
    if not any(mask):
        raise InputError(
            "the mask enables no block (loralib's default, with which its MergedLinear fails at "
            "the first forward pass); enable at least one"
        )
    return mask


def _size(config: Mapping[str, object], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise InputError(
            f"the base's config has no usable {name}: got {escape(str(value), 60)}; "
            "pass the folder of a Phi-3"
        )
    return value
