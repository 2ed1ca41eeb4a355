"""The room's door: what is public is there, and its interfaces can't be changed or mixed up."""

import dataclasses

import pytest

from phi3_lora_qa import lora

INTERFACES = [v for n in lora.__all__ if dataclasses.is_dataclass(v := getattr(lora, n))]


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    functions = [getattr(lora, name) for name in lora.__all__]
    assert [f for f in functions if callable(f) and not f.__doc__] == []


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda i: i.__name__)
def test_interfaces_are_frozen_and_take_keywords_only(interface: type) -> None:
    parameters = vars(interface)["__dataclass_params__"]
    assert parameters.frozen
    assert all(field.kw_only for field in dataclasses.fields(interface))
