"""Misspelt names are refused, and never taken for another name."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis.strategies import SearchStrategy

from phi3_lora_qa import strategies
from phi3_lora_qa.errors import InputError
from tests.strategies.drawing import smallest

CONFIG = smallest(strategies.phi3_configs())
WRONG: dict[str, tuple[Callable[..., SearchStrategy[Any]], dict[str, Any]]] = {
    "unknown kind: 'hugo'; use one of ordinary": (strategies.lora_factors, {"kinds": ["hugo"]}),
    r"not a list of kinds: 'huge'; pass a list such as \['ord": (
        strategies.linear_cases,
        {"kinds": "huge"},
    ),
    r"not a list of kinds: \[\]": (strategies.embedding_cases, {"kinds": []}),
    "unknown dtype: 'float64'; use one of float32": (strategies.lora_factors, {"dtype": "float64"}),
    "unknown dtype: 'int8'; use one of": (strategies.conv_cases, {"dtypes": ["float32", "int8"]}),
    "not a list of dtypes: 'float16'": (strategies.merged_linear_cases, {"dtypes": "float16"}),
    "unknown fill: 'nines'; use one of ones": (
        strategies.arrays,
        {"shape": (2,), "fills": ["nines"]},
    ),
    "unknown padding: 'top'; use one of right, left": (
        strategies.batches,
        {"config": CONFIG, "padding": "top"},
    ),
    "unknown variant: 'dara'; use one of plain": (
        strategies.lora_configs,
        {"config": CONFIG, "variants": ("plain", "dara")},
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_an_unknown_name_is_refused_with_the_known_ones(message: str) -> None:
    strategy, choices = WRONG[message]
    with pytest.raises(InputError, match=message):
        smallest(strategy(**choices))
