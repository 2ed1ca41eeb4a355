"""The blocks of a fused layer, by name, and masks over them in loralib's terms.

Phi-3's ``qkv_proj`` holds the rows of q, k and v, one below the other, and ``gate_up_proj`` those
of gate and up. loralib's MergedLinear knows only blocks of one size. With grouped-query attention
q is larger than k and v; the greatest common divisor of the sizes is then the block.
"""

import math
from collections.abc import Mapping, Sequence

from phi3_lora_qa.errors import InputError, escape

Blocks = Mapping[str, int]
"""The rows of each block of a fused layer, in order."""

Mask = Mapping[str, bool] | Sequence[bool]
"""Which blocks are trained: by name, or as loralib's own ``enable_lora``."""


def phi3_blocks(config: Mapping[str, object]) -> Mapping[str, Blocks]:
    """Return the blocks of Phi-3's fused layers, by the layer's last name.

    Args:
        config: The content of a config.json; another architecture's has no blocks that are known.
    """
    if config.get("model_type") != "phi3":
        return {}
    hidden, middle = _size(config, "hidden_size"), _size(config, "intermediate_size")
    heads = _size(config, "num_attention_heads")
    groups = _size(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    head = _size(config, "head_dim") if config.get("head_dim") else hidden // heads
    return {
        "qkv_proj": {"q": heads * head, "k": groups * head, "v": groups * head},
        "gate_up_proj": {"gate": middle, "up": middle},
    }


def expand(mask: Mask, blocks: Blocks, count: int | None = None) -> tuple[bool, ...]:
    """Return loralib's ``enable_lora`` for a mask.

    Args:
        mask: By name (what is not named is not trained), or an ``enable_lora`` as it stands.
        blocks: The rows of each named block.
        count: How many equal blocks there must be; as few as possible where it is None.

    Raises:
        InputError: A name is unknown, no block is chosen, or ``count`` equal blocks cut one in two.
    """
    if not isinstance(mask, Mapping):
        return _require_any(tuple(bool(on) for on in mask))
    unknown = [name for name in mask if name not in blocks]
    if unknown:
        known = f"name {', '.join(blocks)}" if blocks else "give it as 0 and 1, one a block"
        raise InputError(f"the mask names '{escape(unknown[0], 60)}', which is no block; {known}")
    total = sum(blocks.values())
    size = math.gcd(*blocks.values()) if count is None else total // count
    if total % size or any(rows % size for rows in blocks.values()):
        sizes = ", ".join(f"{name} {rows}" for name, rows in blocks.items())
        raise InputError(
            f"{count} equal blocks of {size} rows do not fit the blocks {sizes}; "
            "give the mask as 0 and 1, one for each equal block"
        )
    return _require_any(
        tuple(on for name in blocks for on in [bool(mask.get(name))] * (blocks[name] // size))
    )


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
