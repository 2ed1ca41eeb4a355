"""A name that is misspelt is refused, and not taken for another."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis.strategies import SearchStrategy

from phi3_lora_qa import strategies
from phi3_lora_qa.errors import InputError
from tests.strategies.drawing import smallest

CONFIG = smallest(strategies.phi3_configs())
WRONG: dict[str, tuple[Callable[..., SearchStrategy[Any]], dict[str, Any]]] = {
    "no kind 'hugo'; use one of ordinary": (strategies.lora_factors, {"kinds": ["hugo"]}),
    "'huge' is no list of kinds, such as 'ord": (strategies.linear_cases, {"kinds": "huge"}),
    r"\[\] is no list of kinds": (strategies.embedding_cases, {"kinds": []}),
    "no dtype 'float64'; use one of float32": (strategies.lora_factors, {"dtype": "float64"}),
    "no dtype 'int8'; use one of": (strategies.conv_cases, {"dtypes": ["float32", "int8"]}),
    "'float16' is no list of dtypes": (strategies.merged_linear_cases, {"dtypes": "float16"}),
    "no fill 'nines'; use one of ones": (strategies.arrays, {"shape": (2,), "fills": ["nines"]}),
    "no padding 'top'; use one of right, left": (
        strategies.batches,
        {"config": CONFIG, "padding": "top"},
    ),
    "no variant 'dara'; use one of plain": (
        strategies.lora_configs,
        {"config": CONFIG, "variants": ("plain", "dara")},
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_name_that_is_none_is_refused_with_those_that_there_are(message: str) -> None:
    strategy, choices = WRONG[message]
    with pytest.raises(InputError, match=message):
        smallest(strategy(**choices))
