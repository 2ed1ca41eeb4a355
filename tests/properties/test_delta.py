"""Properties of the delta pass on a correct layer and compare everything that they should."""

import pytest

from phi3_lora_qa.properties import delta
from tests.properties.comparisons import check_comparisons, properties_of

pytestmark = pytest.mark.slow

FACTORS = ("2", "0.5", "-1", "3", "0")
COMPARED: dict[str, list[str]] = {
    "delta_is_scaling_times_b_times_a": ["the delta"],
    "delta_has_at_most_rank_r": ["the part of the delta outside the column space of B"],
    "delta_is_linear_in_scaling": [
        *(f"the delta at {k} times the scaling" for k in FACTORS),
        "the delta after the scale was reset",
    ],
    "delta_is_linear_in_each_factor": [
        f"the delta with {factor} {k} times as large" for factor in "BA" for k in (2, 0.5, -1)
    ],
    "delta_is_gauge_invariant": ["the delta with B·M and M⁻¹·A"],
    "delta_is_invariant_to_rank_permutation": ["the delta with permuted ranks"],
}
"""Everything that each property compares; otherwise a missing comparison would go unnoticed."""


@pytest.mark.parametrize("prop", COMPARED)
def test_a_property_passes_on_correct_layers_and_compares_everything(prop: str) -> None:
    check_comparisons(prop, COMPARED[prop])


def test_every_property_of_the_module_is_tested() -> None:
    assert properties_of(delta) == set(COMPARED)
