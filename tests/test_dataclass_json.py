"""Dataclasses as strict JSON and back: every value returns, and a wrong one is named."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.dataclass_json import from_plain, required_fields, to_plain


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    size: float


@dataclass(frozen=True, kw_only=True)
class Whole:
    colour: Colour
    side: Literal["left", "right"]
    part: Part | None
    parts: Sequence[Part]
    pairs: Mapping[str, tuple[float, float]]
    count: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


GOOD: dict[str, Any] = {
    "colour": "red",
    "side": "left",
    "part": None,
    "parts": [{"name": "a", "size": 1}],
    "pairs": {"x": [0.5, "nan"]},
}
NUMBERS = st.floats(allow_nan=False)
TEXTS = st.text("a\u00e9\n\0\U0001f468", max_size=5)
PARTS = st.builds(Part, name=TEXTS, size=NUMBERS)


@given(
    st.builds(
        Whole,
        colour=st.sampled_from(Colour),
        side=st.sampled_from(("left", "right")),
        part=st.none() | PARTS,
        parts=st.lists(PARTS, max_size=3).map(tuple),
        pairs=st.dictionaries(TEXTS, st.tuples(NUMBERS, NUMBERS), max_size=3),
        count=st.integers(),
        extra=st.dictionaries(st.sampled_from("ab"), st.none() | st.booleans() | st.integers()),
    )
)
def test_every_value_returns_through_strict_json(whole: Whole) -> None:
    text = json.dumps(to_plain(whole), allow_nan=False)
    assert from_plain(Whole, json.loads(text)) == whole


def test_a_nan_returns_as_a_number_and_defaults_may_be_missing() -> None:
    whole = from_plain(Whole, GOOD)
    assert math.isnan(whole.pairs["x"][1])
    assert (whole.parts[0].size, whole.count, whole.colour) == (1.0, 0, Colour.RED)
    assert type(whole.parts[0].size) is float
    assert to_plain(math.inf) == "inf"
    assert required_fields(Whole) == ("colour", "side", "part", "parts", "pairs")


def test_a_lone_surrogate_is_replaced_and_any_other_object_becomes_text() -> None:
    assert to_plain(["a\ud800", {1: {2}}]) == ["a?", {"1": "{2}"}]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"colour": "blue"}, r"Whole\.colour must be 'red', found 'blue'"),
        ({"colour": ["red"]}, r"Whole\.colour must be 'red'"),
        ({"side": "up"}, r"Whole\.side must be 'left' or 'right', found 'up'"),
        ({"part": {"name": 1, "size": 1}}, r"Whole\.part\.name must be str, found 1"),
        ({"part": {"name": "a"}}, r"Whole\.part has no field 'size'"),
        ({"parts": {"name": "a"}}, r"Whole\.parts must be a list"),
        ({"parts": [3]}, r"Whole\.parts\[0\] must be an object, found 3"),
        ({"parts": [{"name": "a", "size": "1.0"}]}, r"parts\[0\]\.size must be a number"),
        ({"parts": [{"name": "a", "size": True}]}, r"parts\[0\]\.size must be a number"),
        ({"parts": [{"name": "a", "size": 10**400}]}, "too large for a number"),
        ({"pairs": {"x": [1.0]}}, r"Whole\.pairs\.x must have 2 values, found 1"),
        ({"pairs": []}, r"Whole\.pairs must be an object"),
        ({"count": True}, r"Whole\.count must be int, found True"),
        ({"count": 1.0}, r"Whole\.count must be int"),
        ({"more": 1}, r"Whole has an unknown field 'more'"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(damage: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_plain(Whole, GOOD | damage)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="Whole has no field 'side'"):
        from_plain(Whole, {name: value for name, value in GOOD.items() if name != "side"})
