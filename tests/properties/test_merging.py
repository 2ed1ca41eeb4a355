"""Properties of merging on correct layers, and a drift that they find."""

from typing import Any

import pytest

from phi3_lora_qa.lora import format_of
from phi3_lora_qa.properties import merging
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from tests.properties.comparisons import PROPERTIES, check_comparisons, properties_of
from tests.properties.reference import ReferenceLayer

pytestmark = pytest.mark.slow

COMPARED: dict[str, list[str]] = {
    "merging_adds_the_delta_to_the_weight": ["the merged weight"],
    "merged_output_matches_unmerged": ["the output of the merged layer"],
    "merging_twice_adds_the_delta_once": ["the weight merged twice"],
    "unmerging_restores_the_weight": ["the weight after unmerging"],
    "merge_cycles_do_not_drift": [f"the weight after {n} cycles" for n in range(2, 9)],
    "unmerging_an_unmerged_layer_changes_nothing": ["the output after unmerging without a merge"],
    "disabling_while_merged_restores_the_base": ["the output with the merged adapter disabled"],
    "merged_row_norms_equal_dora_magnitudes": ["the norm of a merged row"],
}
"""Everything that each property compares; otherwise a missing comparison would go unnoticed."""


@pytest.mark.parametrize("prop", COMPARED)
def test_a_property_passes_on_correct_layers_and_compares_everything(prop: str) -> None:
    check_comparisons(prop, COMPARED[prop])


def test_every_property_of_the_module_is_tested() -> None:
    assert properties_of(merging) == set(COMPARED)


def test_a_drift_in_later_cycles_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ReferenceLayer.unmerge

    def changed(self: Any) -> None:
        self.cycles = getattr(self, "cycles", 0) + 1
        right(self)
        if self.cycles > 1:
            self.base = self.base * (1.0 + 8 * format_of(self.case.dtype).unit_roundoff)

    monkeypatch.setattr(ReferenceLayer, "unmerge", changed)
    run_property(PROPERTIES["unmerging_restores_the_weight"], ReferenceLayer, examples=40)
    with pytest.raises(PropertyFailed, match=r"the weight after \d cycles is off by"):
        run_property(PROPERTIES["merge_cycles_do_not_drift"], ReferenceLayer)
