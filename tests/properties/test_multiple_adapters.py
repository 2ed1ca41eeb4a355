"""Properties of several adapters on correct layers, and what is drawn for them."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from phi3_lora_qa.lora import Factors, format_of
from phi3_lora_qa.properties import multiple_adapters
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from tests.properties.comparisons import PROPERTIES, check_comparisons, compared, properties_of
from tests.properties.reference import ReferenceDora, ReferenceLayer

pytestmark = pytest.mark.slow

COMPARED: dict[str, list[str]] = {
    "only_the_active_adapter_applies": [
        "the output with a second, inactive adapter",
        "the output of the second adapter",
        "the output of the first adapter again",
    ],
    "active_adapters_are_summed": ["the output of both adapters"],
    "merging_two_adapters_adds_both_deltas": [
        "the weight with both merged",
        "the weight with both unmerged",
    ],
    "mixed_batch_rows_match_separate_runs": [
        *(f"a row of {name} in a mixed batch" for name in ("__base__", "default", "second")),
        "the output after a mixed batch",
    ],
    "cat_combination_equals_the_weighted_sum": [
        "the rank of the concatenation",
        "the delta of the concatenation",
    ],
    "rslora_combination_has_scaling_one": ["the scaling of the combination"],
    "svd_combination_is_optimal_for_its_rank": ["the distance of the svd from the weighted sum"],
    "linear_combination_mixes_the_factors": [
        f"{part} of the {how} combination"
        for part in ("A", "B", "the scaling")
        for how in ("linear", "magnitude_prune", "ties", "dare_linear")
    ],
}
"""Everything that each property compares; otherwise a missing comparison would go unnoticed."""


@pytest.mark.parametrize("prop", COMPARED)
def test_a_property_passes_on_correct_layers_and_compares_everything(prop: str) -> None:
    check_comparisons(prop, COMPARED[prop])


def test_every_property_of_the_module_is_tested() -> None:
    assert properties_of(multiple_adapters) == set(COMPARED)


def test_adapters_are_combined_with_weights_of_both_signs_and_several_sizes() -> None:
    seen = compared("cat_combination_equals_the_weighted_sum", ReferenceLayer, examples=200)
    drawn = {what.partition(" with weights ")[2] for what in seen} - {""}
    pairs = {tuple(map(float, pair.split(" and "))) for pair in drawn}
    weights = {1.0, 0.5, -1.0, 2.0, 0.3, -0.7}
    assert {first for first, _ in pairs} == {second for _, second in pairs} == weights


@pytest.mark.filterwarnings("error")
def test_an_undefined_value_does_not_warn() -> None:
    """A second adapter may cancel a row of DoRA, whose output is then NaN."""
    prop = PROPERTIES["only_the_active_adapter_applies"]
    run_property(prop, ReferenceDora, examples=80, shrink=False)


@pytest.mark.parametrize(
    "prop", ["only_the_active_adapter_applies", "cat_combination_equals_the_weighted_sum"]
)
def test_the_second_adapter_has_a_different_rank(
    prop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks, right = set(), ReferenceLayer.add_adapter

    def recorded(self: ReferenceLayer, name: str, factors: Factors) -> None:
        ranks.add((self.current_factors("default").rank, factors.rank))
        right(self, name, factors)

    monkeypatch.setattr(ReferenceLayer, "add_adapter", recorded)
    run_property(PROPERTIES[prop], ReferenceLayer, examples=100)
    assert len({second for _, second in ranks}) > 3
    assert any(first != second for first, second in ranks)


@pytest.mark.parametrize("exponent", [-8, 0, 8])
def test_the_bound_of_an_svd_scales_with_the_factors(exponent: int) -> None:
    def sized(f: Factors) -> Factors:
        return replace(f, B=2.0**exponent * f.B)

    class Sized(ReferenceLayer):
        options: ClassVar[dict[str, Any]] = {"kinds": ("ordinary",), "dtypes": ("bfloat16",)}

        @classmethod
        def cases(cls) -> Any:
            return super().cases().map(lambda case: replace(case, factors=sized(case.factors)))

        @classmethod
        def additional_factors(cls, case: Any, **choices: Any) -> Any:
            return super().additional_factors(case, **choices).map(sized)

    class Off(Sized):
        def combine_adapters(
            self, names: tuple[str, ...], weights: tuple[float, ...], how: str
        ) -> Factors:
            found = super().combine_adapters(names, weights, how)
            return replace(found, scaling=1.0 + 8 * format_of("bfloat16").unit_roundoff)

    prop = PROPERTIES["svd_combination_is_optimal_for_its_rank"]
    run_property(prop, Sized, examples=60, shrink=False)
    with pytest.raises(PropertyFailed, match="the distance of the svd"):
        run_property(prop, Off, examples=60, shrink=False)
