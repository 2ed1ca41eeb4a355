"""The blocks of a fused layer, by name, and masks over them in loralib's terms.

Phi-3's ``qkv_proj`` holds the rows of q, k and v, one below the other, and ``gate_up_proj`` those
of gate and up. loralib's MergedLinear knows only blocks of one size. With grouped-query attention
q is larger than k and v; the greatest common divisor of the sizes is then the block.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.lora.fused import Layout, gate_up_layout, qkv_layout

Blocks = Mapping[str, int]
"""The rows of each block of a fused layer, in order."""

Mask = Mapping[str, bool] | Sequence[bool]
"""Which blocks are trained: by name, or as loralib's own ``enable_lora``."""


def phi3_layouts(config: Mapping[str, object]) -> Mapping[str, Layout]:
    """Return the parts of Phi-3's fused layers, by the layer's last name.

    Args:
        config: The content of a config.json; of another architecture nothing is known.

    Raises:
        InputError: A size is missing.
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
    """Return the rows of q, k, v and of gate, up, by the fused layer's last name.

    Raises:
        InputError: As `phi3_layouts`.
    """
    return {
        name: {block.name.removesuffix("_proj"): block.rows for block in layout}
        for name, layout in phi3_layouts(config).items()
    }


def expand(mask: Mask, blocks: Blocks, count: int | None = None) -> tuple[bool, ...]:
    """Return loralib's ``enable_lora`` for a mask.

    Args:
        mask: By name, every block with true or false; or an ``enable_lora`` as it stands.
        blocks: The rows of each named block.
        count: How many equal blocks there must be; as few as possible where it is None.

    Raises:
        InputError: A name is unknown or left out, no block is chosen, or ``count`` equal blocks
            cut one in two.
    """
    flags = list(mask.values()) if isinstance(mask, Mapping) else list(mask)
    if any(type(on) is not bool for on in flags):
        raise InputError("a mask holds something else than true and false; give one for each block")
    if not isinstance(mask, Mapping):
        return _require_any(tuple(mask))
    unknown = [name for name in mask if name not in blocks]
    if unknown:
        known = f"name {', '.join(blocks)}" if blocks else "give the mask as a list, in order"
        raise InputError(f"the mask names '{escape(unknown[0], 60)}', which is no block; {known}")
    left_out = [name for name in blocks if name not in mask]
    if left_out:
        raise InputError(f"the mask leaves out {left_out[0]}; say true or false for it")
    total = sum(blocks.values())
    size = math.gcd(*blocks.values()) if count is None else total // count
    if total % size or any(rows % size for rows in blocks.values()):
        sizes = ", ".join(f"{name} {rows}" for name, rows in blocks.items())
        raise InputError(
            f"{count} equal blocks of {size} rows do not fit the blocks {sizes}; "
            "give the mask as a list, one value for each equal block"
        )
    return _require_any(
        tuple(on for name in blocks for on in [mask[name]] * (blocks[name] // size))
    )


def mask_of(module: str, masks: Mapping[str, Mask]) -> Mask | None:
    """Return the first mask whose key the module is called by."""
    return next((mask for key, mask in masks.items() if matches_suffix(module, key)), None)


def require_used(masks: Mapping[str, Mask], modules: Iterable[str]) -> None:
    """Raise InputError for a mask that is for none of the modules."""
    names = list(modules)
    for key in masks:
        if not any(matches_suffix(name, key) for name in names):
            raise InputError(f"the mask for '{escape(key, 80)}' is for no layer; drop it")


def _require_any(mask: tuple[bool, ...]) -> tuple[bool, ...]:
    if not any(mask):
        raise InputError(
            "the mask chooses no block (loralib's default, with which its MergedLinear fails at "
            "the first forward pass); choose at least one"
        )
    return mask


def _size(config: Mapping[str, object], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise InputError(f"the base's config has no usable {name}; give the folder of a Phi-3")
    return value
