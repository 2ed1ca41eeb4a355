from collections.abc import Callable
from typing import Any

import pytest

from phi3_lora_qa.adapter import config_values as values


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (values.boolean, True, True),
        (values.rank, 65536, 65536),
        (values.number, 8, 8.0),
        (values.probability, 0, 0.0),
        (values.names, ["a", "b"], ("a", "b")),
        (values.names_or_pattern, ".*", ".*"),
        (values.name_or_names, "", ()),
        (values.layers, 3, (3,)),
        (values.layers, [], None),
        (values.optional(values.rank, 4), None, 4),
        (values.one_of("none", True), True, True),
        (values.table(values.rank), {"a": 2}, {"a": 2}),
        (values.ignored_object, {"a": 1}, None),
    ],
)
def test_a_valid_value_is_read(read: Callable[[Any], Any], value: Any, expected: Any) -> None:
    assert read(value) == expected


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (values.boolean, 1, "must be true or false"),
        (values.rank, 0, "from 1 to 65536"),
        (values.rank, True, "from 1 to 65536"),
        (values.rank, 65537, "from 1 to 65536"),
        (values.number, "8", "must be a number"),
        (values.number, 10**400, "finite number"),
        (values.number, float("inf"), "finite number"),
        (values.probability, 1, "less than 1"),
        (values.text, 3, "must be a string"),
        (values.names, "ab", "list of names"),
        (values.names, [""], "list of names"),
        (values.names, ["a"] * 2049, "at most 2048 names"),
        (values.layers, [-1], "layer index"),
        (values.layers, [0] * 2049, "at most 2048 indices"),
        (values.one_of("none", True), 1, 'one of "none", true'),
        (values.table(values.rank), {"a": 0}, r"^\['a'\] must be an integer"),
        (values.table(values.rank), {str(n): 1 for n in range(513)}, "at most 512 entries"),
        (values.ignored_object, [], "object or null"),
    ],
)
def test_an_invalid_value_is_an_error(read: Callable[[Any], Any], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(value)
