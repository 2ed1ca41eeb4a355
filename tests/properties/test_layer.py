"""What a kind of layer can do follows from the methods that it defines."""

from collections.abc import Mapping

import pytest

from phi3_lora_qa.properties.layer import Layer, capabilities
from tests.properties.comparisons import PROPERTIES
from tests.properties.reference import ReferenceLayer


def test_the_correct_layer_has_every_capability() -> None:
    needs = frozenset().union(*(prop.needs for prop in PROPERTIES.values()))
    assert capabilities(ReferenceLayer) >= needs
    assert capabilities(Layer) == frozenset()


def test_an_unsupported_method_is_not_a_capability() -> None:
    class Unmergeable(ReferenceLayer):
        unsupported = frozenset({"merge"})

    assert capabilities(ReferenceLayer) - capabilities(Unmergeable) == {"merge"}
    assert not PROPERTIES["merging_twice_adds_the_delta_once"].applies(Unmergeable)


def test_a_value_is_not_a_capability() -> None:
    class Named(ReferenceLayer):
        known_failures: Mapping[str, str] = {"a": "b"}  # type: ignore[misc]

    assert "known_failures" not in capabilities(Named)


def test_a_layer_without_a_forward_pass_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Layer()  # type: ignore[abstract]
