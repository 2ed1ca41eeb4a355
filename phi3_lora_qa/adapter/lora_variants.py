"""Strict readers for the LoRA variants that have their own field in the config.

Each follows its class in peft 0.21.2 (tuners/lora/config.py). Values that only affect training
(sampling, priors, the scale of a gradient) are checked and not kept.
"""

# ruff: noqa: TRY004 - a wrong type in a file is reported like any other wrong value

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from phi3_lora_qa.adapter.config_values import (
    MAX_NAMES,
    Field,
    boolean,
    names,
    number,
    optional,
    text,
)

MAX_BLOCKS = 1024
MAX_TOKENS = 1 << 16
MAX_SAMPLES = 256


@dataclass(frozen=True, kw_only=True)
class BlockDiagonal:
    """BD-LoRA: one factor of each module is block-diagonal, and stored as its stacked blocks.

    Attributes:
        a: Parts of the names of modules whose A is block-diagonal.
        b: Parts of the names of modules whose B is block-diagonal.
        blocks: The number of blocks.
        strict: Whether ``a`` or ``b`` must match every adapted module.
    """

    a: tuple[str, ...]
    b: tuple[str, ...]
    blocks: int
    strict: bool

    def splits_a(self, module: str) -> bool:
        """Whether this module's A is block-diagonal."""
        return any(part in module for part in self.a)

    def splits_b(self, module: str) -> bool:
        """Whether this module's B is block-diagonal."""
        return any(part in module for part in self.b)


def block_diagonal(value: Any) -> BlockDiagonal:
    """Read use_bdlora: the fields of BdLoraConfig."""
    found = _object(
        value,
        target_modules_bd_a=Field(read=optional(names, ()), default=()),
        target_modules_bd_b=Field(read=optional(names, ()), default=()),
        nblocks=Field(read=_count(MAX_BLOCKS), default=1),
        match_strict=Field(read=boolean, default=True),
    )
    return BlockDiagonal(
        a=found["target_modules_bd_a"],
        b=found["target_modules_bd_b"],
        blocks=found["nblocks"],
        strict=found["match_strict"],
    )


def velora(value: Any) -> int:
    """Read velora_config; return the number of groups."""
    found = _object(
        value,
        num_groups=Field(read=_count(MAX_BLOCKS), default=64),
        scale=Field(read=number),
        init_type=Field(read=text),
    )
    return int(found["num_groups"])


def monteclora(value: Any) -> int:
    """Read monteclora_config; return the number of samples."""
    found = _object(
        value,
        num_samples=Field(read=_count(MAX_SAMPLES), default=8),
        use_entropy=Field(read=boolean),
        dirichlet_prior=Field(read=number),
        sample_scaler=Field(read=number),
        kl_loss_weight=Field(read=number),
        buffer_size=Field(read=_count(1 << 20)),
    )
    return int(found["num_samples"])


def trained_tokens(value: Any) -> Mapping[str, tuple[int, ...]]:
    """Read trainable_token_indices: token ids of the input embeddings, or of named tables."""
    if isinstance(value, list):
        value = {"embed_tokens": value}
    if not isinstance(value, dict) or len(value) > MAX_NAMES:
        raise ValueError("must be a list of token ids, or map table names to such lists")
    return MappingProxyType({name: _token_ids(ids) for name, ids in value.items()})


def _token_ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TOKENS:
        raise ValueError(f"must list 1 to {MAX_TOKENS} token ids")
    if not all(type(item) is int and 0 <= item < 1 << 31 for item in value):
        raise ValueError("must contain token ids: integers of at least 0")
    if len(set(value)) != len(value):
        raise ValueError("must not contain duplicate tokens")
    return tuple(value)


def _count(largest: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not 1 <= value <= largest:
            raise ValueError(f"must be an integer from 1 to {largest}")
        return value

    return read


def _object(value: Any, **fields: Field) -> dict[str, Any]:
    """Read an object that has no fields but these."""
    if not isinstance(value, dict):
        raise ValueError("must be an object or null")
    if unknown := sorted(set(value) - set(fields)):
        raise ValueError(f"must not have a field {unknown[0]!r}")
    found = {}
    for name, field in fields.items():
        try:
            found[name] = field.read(value[name]) if name in value else field.default
        except ValueError as error:
            raise ValueError(f"[{name}] {error}") from None
    return found
