"""Public names exist, and public dataclasses are frozen and keyword-only."""

import dataclasses

import pytest

from phi3_lora_qa import lora

INTERFACES = [v for n in lora.__all__ if dataclasses.is_dataclass(v := getattr(lora, n))]


def test_every_public_name_exists_and_has_a_docstring() -> None:
    functions = [getattr(lora, name) for name in lora.__all__]
    assert [f for f in functions if callable(f) and not f.__doc__] == []


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda i: i.__name__)
def test_interfaces_are_frozen_and_take_keywords_only(interface: type) -> None:
    parameters = vars(interface)["__dataclass_params__"]
    assert parameters.frozen
    assert all(field.kw_only for field in dataclasses.fields(interface))
