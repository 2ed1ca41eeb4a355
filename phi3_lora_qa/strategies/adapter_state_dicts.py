"""Strategies for whole adapters: every tensor that a LoRA config implies, as peft would save it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from phi3_lora_qa.adapter.base_modules import modules_from_config
from phi3_lora_qa.adapter.config import LoraAdapterConfig, parse_config
from phi3_lora_qa.adapter.expected_tensors import (
    TABLES,
    ExpectedLayout,
    ExpectedTensor,
    derive_expected_tensors,
)
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import Part, tensor_name
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Array
from phi3_lora_qa.strategies.arrays import NONZERO_FILLS, arrays
from phi3_lora_qa.strategies.factor_pairs import FactorKind, lora_factors

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import Phi3Config

MODERATE_FACTOR_KINDS: tuple[FactorKind, ...] = (
    "ordinary",
    "fresh",
    "zero_a",
    "degenerate",
    "ill_conditioned",
)
"""The kinds of factors for which a whole model still computes finite numbers."""

_PAIRS = {Part.A: Part.B, Part.EMBEDDING_A: Part.EMBEDDING_B}


@st.composite
def adapter_state_dicts(
    draw: st.DrawFn,
    phi3_config: "Phi3Config",
    lora_config: "LoraConfig",
    *,
    kinds: Sequence[FactorKind] = MODERATE_FACTOR_KINDS,
) -> Mapping[str, NDArray[np.float32]]:
    """Draw the content of an adapter_model.safetensors; simplest: all ones.

    Names and shapes are exactly those of peft's get_peft_model_state_dict. For adapted token tables
    that includes the base's own table, as ``base_layer.weight``; it is drawn too, so loading the
    result changes the table. DoRA magnitudes are positive.

    Args:
        draw: Supplied by hypothesis.
        phi3_config: The base model's config.
        lora_config: The adapter's config, before or after peft has processed it.
        kinds: Kinds of factors, as in `lora_factors`, drawn for each adapted module.

    Returns:
        float32 arrays by tensor name.

    Raises:
        InputError: The linter rejects the lora_config.

    Example:
        >>> from hypothesis import given, settings
        >>> from hypothesis import strategies as st
        >>> @settings(max_examples=1, database=None, deadline=None)
        ... @given(st.data())
        ... def test(data):
        ...     config = data.draw(phi3_configs())
        ...     tensors = data.draw(adapter_state_dicts(config, data.draw(lora_configs(config))))
        ...     assert all(name.startswith("base_model.model.") for name in tensors)
        >>> test()
    """
    config = _read(lora_config)
    matching = Matching(config)
    modules = modules_from_config(phi3_config.to_dict())
    implied = derive_expected_tensors(
        config, matching, modules, tied=phi3_config.tie_word_embeddings
    )
    values: dict[str, Array] = {}
    for tensor in _written(implied, config):
        if tensor.name in values:
            continue
        if tensor.part in _PAIRS:
            values |= draw(_factors(tensor, implied, matching.scaling(tensor.module), kinds))
        else:
            values[tensor.name] = draw(arrays(_shape(tensor), fills=NONZERO_FILLS))
    return {name: value.astype(np.float32) for name, value in values.items()}


def _read(lora_config: "LoraConfig") -> LoraAdapterConfig:
    """Read a LoraConfig as if it came from an adapter_config.json."""
    reading = parse_config(json.loads(json.dumps(lora_config.to_dict(), default=sorted)))
    if reading.config is None or reading.problems:
        first = reading.problems[0]
        raise InputError(f"adapter_state_dicts: {first.message}; {first.fix}")
    if reading.config.use_bdlora:
        raise InputError(
            "adapter_state_dicts: use_bdlora is not supported: it splits the factors into blocks; "
            "set it to None"
        )
    return reading.config


def _written(implied: ExpectedLayout, config: LoraAdapterConfig) -> list[ExpectedTensor]:
    """Return the tensors that peft writes with save_embedding_layers="auto"."""
    targets = config.target_modules
    by_leaf = isinstance(targets, str) or any(table in targets for table in TABLES)
    with_tables = by_leaf and not config.trainable_token_indices
    return [tensor for tensor in implied.tensors.values() if with_tables or not tensor.optional]


@st.composite
def _factors(
    draw: st.DrawFn,
    first: ExpectedTensor,
    implied: ExpectedLayout,
    scaling: float,
    kinds: Sequence[FactorKind],
) -> dict[str, Array]:
    """Draw all tensors of one adapted module; ``first`` is its A."""
    name = {part: tensor_name(first.module, part) for part in Part}
    a, b = first.part, _PAIRS[first.part]
    (rank, in_features), (out_features, _) = _shape(first), _shape(implied.tensors[name[b]])
    factors = draw(
        lora_factors(
            out_features=out_features,
            in_features=in_features,
            rank=rank,
            kinds=kinds,
            magnitude=name[Part.MAGNITUDE] in implied.tensors,
            bias=name[Part.B_BIAS] in implied.tensors,
            scaling=scaling,
        )
    )
    drawn = {
        a: factors.A,
        b: factors.B,
        Part.MAGNITUDE: factors.magnitude,
        Part.B_BIAS: factors.bias,
    }
    return {name[part]: value for part, value in drawn.items() if value is not None}


def _shape(tensor: ExpectedTensor) -> tuple[int, ...]:
    # All sizes of the base are known here, so no side is None.
    return tuple(side or 0 for side in tensor.shape)
