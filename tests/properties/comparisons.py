"""Checks that a property passes on correct layers and compares everything that it should."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from phi3_lora_qa.properties.layer_property import Comparison, Property, UnderTest
from phi3_lora_qa.properties.property_catalogue import all_properties
from phi3_lora_qa.properties.property_runner import run_property
from tests.properties.reference import ReferenceDora, ReferenceLayer, ReferenceModel

PROPERTIES = {prop.id: prop for prop in all_properties()}
CORRECT = (ReferenceLayer, ReferenceDora, ReferenceModel)
WITHOUT_COMPARISONS = {
    "merged_row_norms_equal_dora_magnitudes": ReferenceLayer,
    "active_adapters_are_summed": ReferenceDora,
    "merging_two_adapters_adds_both_deltas": ReferenceDora,
    "mixed_batch_rows_match_separate_runs": ReferenceDora,
    "dropout_is_active_in_training_mode": ReferenceDora,
}
"""The correct layer for which a property compares nothing."""


def properties_of(module: ModuleType) -> set[str]:
    """Return the ids of the properties that a module defines."""
    return {value.id for value in vars(module).values() if isinstance(value, Property)}


def check_comparisons(prop: str, expected: Sequence[str]) -> None:
    """Run a property on every correct layer, and assert what it compares."""
    seen = set()
    for kind in CORRECT:
        if not PROPERTIES[prop].applies(kind):
            assert not issubclass(kind, PROPERTIES[prop].of)
            continue
        found = compared(prop, kind)
        assert bool(found) == (WITHOUT_COMPARISONS.get(prop) is not kind)
        seen |= found
    assert {what.partition(" with weights ")[0] for what in seen} == set(expected)


def compared(prop: str, kind: type[UnderTest], examples: int = 80) -> set[str]:
    """Return the names of everything that a property compares on many cases."""
    seen = set()

    def check(layer: Any, case: Any, draw: Any) -> Iterator[Comparison]:
        for found in PROPERTIES[prop].check(layer, case, draw):
            seen.add(found.what)
            yield found

    recording = replace(PROPERTIES[prop], check=check)
    run_property(recording, kind, examples=examples, shrink=False)
    return seen
