import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from phi3_lora_qa.strict_values import fits, reject_json_constant, suggest


class Kind(StrEnum):
    STEPS = "steps"


@dataclass
class Nested:
    size: int = 1


FAMILY = Literal["gaussian", "pissa_niter_[number of iters]"]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, float),
        (1, int),
        (True, bool),
        (None, int | None),
        ("steps", Kind | str),
        (["a"], list[str]),
        (("a",), list[str]),
        ({"a": 1}, dict),
        ({"a": 1}, dict[str, Any]),
        ({"size": 2}, Nested),
        ([1, 2], tuple[int, int]),
        ("gaussian", FAMILY),
        ("pissa_niter_16", FAMILY),
        (object(), Any),
        (Path("x"), Path),
        (3, "a hint that is not a type"),
    ],
)
def test_a_value_of_the_documented_type_fits(value: object, hint: object) -> None:
    assert fits(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (True, float),
        ("1", int),
        (1, bool),
        (1.5, int),
        (None, int),
        (3, str | None),
        ("a", list[str]),
        ([1], list[str]),
        ([], dict),
        (3, Nested),
        ("a", tuple[int, int]),
        ("normal", FAMILY),
        (1, Literal[True]),
        ("x", Path),
    ],
)
def test_a_value_of_another_type_does_not_fit(value: object, hint: object) -> None:
    assert not fits(value, hint)


@pytest.mark.parametrize("text", ["NaN", "[1, Infinity]", '{"a": -Infinity}'])
def test_numbers_that_json_does_not_have_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a JSON number"):
        json.loads(text, parse_constant=reject_json_constant)


def test_the_closest_name_is_suggested_or_all_names_listed() -> None:
    assert suggest("learning_rat", ["learning_rate", "seed"]) == "did you mean 'learning_rate'?"
    assert suggest("zzz", ["seed", "r"]) == "use one of seed, r"
