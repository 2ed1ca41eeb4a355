"""Tests of the decorator that makes rules on the base."""

from collections.abc import Iterator

import pytest

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse, base_rule
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.finding import Severity, Violation


@base_rule("basemodel-example", title="t", why="w", fix="do X", blocks=(BaseUse.LOADING,))
def example(base: BaseView) -> Iterator[Violation]:
    yield Violation("here", "wrong\n")


def test_the_decorator_makes_a_rule_on_the_base() -> None:
    assert (example.family, example.severity, example.needs) == (
        "basemodel",
        Severity.WARNING,
        ("base",),
    )
    assert example.blocks == {BaseUse.LOADING}
    assert example.finding(Violation("here", "wrong\n")).message.isprintable()


def test_an_invalid_id_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid rule id"):
        base_rule("basemodel", title="", why="", fix="")
