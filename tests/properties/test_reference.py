"""On a right layer every property holds; each thing that a property reads of a layer matters."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from phi3_lora_qa.lora import Array, Factors, format_of
from phi3_lora_qa.properties.catalogue import all_properties
from phi3_lora_qa.properties.layer import Gradients, Layer, capabilities
from phi3_lora_qa.properties.layer_property import Comparison, UnderTest
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from tests.properties.reference import ReferenceDora, ReferenceLayer, ReferenceModel

pytestmark = pytest.mark.slow

PROPERTIES = {p.id: p for p in all_properties()}
RIGHT = (ReferenceLayer, ReferenceDora, ReferenceModel)
EACH = pytest.mark.parametrize("tested", PROPERTIES)
FACTORS = ("2", "0.5", "-1", "3", "0")
SAVED = [
    what
    for name in ("default", "another")
    for what in (
        f"a logit after loading as {name}",
        f"the adapter loaded as {name} is saved as the same bytes",
    )
]
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
    "forward_adds_the_delta": ["the output"],
    "forward_is_linear_in_scaling": [
        *(f"the output at {k} times the scaling" for k in FACTORS),
        "the output after the scale was reset",
    ],
    "forward_is_repeatable": ["the output of the second call"],
    "batch_rows_are_independent": [
        "the output of a shuffled batch", "the output of one row alone",
    ],
    "disabling_restores_the_base": [
        "the output with the adapter disabled", "the output with the adapter enabled again",
    ],
    "output_dtype_matches_the_base": [
        f"the output's dtype is {dtype} (found: {dtype})"
        for dtype in ("float32", "float16", "bfloat16")
    ],
    "save_load_round_trip_is_exact": [
        f"{part} after loading" for part in ("A", "B", "the scaling", "the output")
    ],
    "only_the_active_adapter_applies": [
        "the output with a second, inactive adapter",
        "the output of the second adapter",
        "the output of the first adapter again",
    ],
    "active_adapters_are_summed": ["the output of both adapters"],
    "merging_two_adapters_adds_both_deltas": [
        "the weight with both merged", "the weight with both unmerged",
    ],
    "mixed_batch_rows_match_separate_runs": [
        *(f"a row of {name} in a mixed batch" for name in ("__base__", "default", "second")),
        "the output after a mixed batch",
    ],
    "cat_combination_equals_the_weighted_sum": [
        "the rank of the concatenation", "the delta of the concatenation",
    ],
    "rslora_combination_has_scaling_one": ["the scaling of the combination"],
    "svd_combination_is_optimal_for_its_rank": ["the distance of the svd from the weighted sum"],
    "linear_combination_mixes_the_factors": [
        f"{part} of the {how} combination"
        for part in ("A", "B", "the scaling")
        for how in ("linear", "magnitude_prune", "ties", "dare_linear")
    ],
    "merging_adds_the_delta_to_the_weight": ["the merged weight"],
    "merged_output_matches_unmerged": ["the output of the merged layer"],
    "merging_twice_adds_the_delta_once": ["the weight merged twice"],
    "unmerging_restores_the_weight": ["the weight after unmerging"],
    "merge_cycles_do_not_drift": [f"the weight after {n} cycles" for n in range(2, 9)],
    "unmerging_an_unmerged_layer_changes_nothing": ["the output after unmerging without a merge"],
    "disabling_while_merged_restores_the_base": ["the output with the merged adapter disabled"],
    "merged_row_norms_equal_dora_magnitudes": ["the norm of a merged row"],
    "initial_output_equals_the_base": [
        "one of the initial factors is zero", "one of the initial factors is not zero",
        "the output of an initialized layer",
    ],
    "initial_gradient_reaches_only_the_zero_factor": [
        "the gradient of the nonzero factor",
        *(f"the gradient of {part}" for part in ("A", "B", "the bias", "the magnitude")),
    ],
    "gradients_match_the_formulas": [
        f"the gradient of {part}" for part in ("A", "B", "the bias", "the magnitude")
    ],
    "base_receives_no_gradient": ["the base's parameters received no gradient"],
    "only_the_adapter_is_trainable": ["the base's parameters are frozen"],
    "dropout_is_inactive_in_eval_mode": ["the output in eval mode"],
    "dropout_is_active_in_training_mode": ["the output without its update"],
    "model_disabling_restores_the_base": [
        "a logit with the adapter disabled", "the enabled adapter changes the logits",
    ],
    "model_merged_output_matches_unmerged": ["a logit of the merged model"],
    "model_unloading_restores_the_base": ["a logit after unloading"],
    "model_save_load_round_trip_is_exact": SAVED,
    "model_pattern_order_survives_saving": SAVED,
    "model_scalings_follow_the_patterns": [
        f"rank or scaling of model.layers.{layer}.{module}"
        for layer in range(3) for module in ("self_attn.qkv_proj", "mlp.down_proj")
    ],
    "model_training_leaves_the_base_unchanged": ["the base's head after a step"],
    "model_output_is_invariant_to_padding": ["a logit of a padded row"],
}  # fmt: skip
"""All that each property compares: a comparison that is never made would go unnoticed."""


WITHOUT = {
    "merged_row_norms_equal_dora_magnitudes": ReferenceLayer,
    "active_adapters_are_summed": ReferenceDora,
    "merging_two_adapters_adds_both_deltas": ReferenceDora,
    "mixed_batch_rows_match_separate_runs": ReferenceDora,
    "dropout_is_active_in_training_mode": ReferenceDora,
}
"""The right layer to which a property has nothing to say."""


@EACH
def test_on_what_is_right_a_property_holds_and_compares_all_that_it_should(tested: str) -> None:
    seen = set()
    for kind in RIGHT:
        if not PROPERTIES[tested].applies(kind):
            assert not issubclass(kind, PROPERTIES[tested].of)
            continue
        compared = _compared(tested, kind)
        assert bool(compared) == (WITHOUT.get(tested) is not kind)
        seen |= compared
    assert {what.partition(" with weights ")[0] for what in seen} == set(COMPARED[tested])


def test_adapters_are_combined_with_weights_of_either_sign_and_several_sizes() -> None:
    seen = _compared("cat_combination_equals_the_weighted_sum", ReferenceLayer, examples=200)
    drawn = {what.partition(" with weights ")[2] for what in seen} - {""}
    pairs = {tuple(map(float, pair.split(" and "))) for pair in drawn}
    weights = {1.0, 0.5, -1.0, 2.0, 0.3, -0.7}
    assert {first for first, _ in pairs} == {second for _, second in pairs} == weights


@pytest.mark.filterwarnings("error")
def test_what_has_no_value_does_not_warn() -> None:
    """A second adapter may take the direction from a row of DoRA's, whose output is NaN then."""
    tested = PROPERTIES["only_the_active_adapter_applies"]
    run_property(tested, ReferenceDora, examples=80, shrink=False)


def test_a_gradient_at_the_base_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ReferenceLayer, "trainable_base_parameters", lambda self: ("weight", "bias")
    )
    with pytest.raises(PropertyFailed, match="not true: the base's weight, bias are frozen"):
        run_property(PROPERTIES["only_the_adapter_is_trainable"], ReferenceLayer)
    monkeypatch.setattr(
        ReferenceLayer,
        "gradients",
        lambda self, x, g: Gradients(A=None, B=None, frozen=("weight",)),
    )
    with pytest.raises(PropertyFailed, match="not true: the base's weight received no gradient"):
        run_property(PROPERTIES["base_receives_no_gradient"], ReferenceLayer)


def test_every_property_is_tested_here() -> None:
    assert set(PROPERTIES) == set(COMPARED)


def test_the_right_layer_has_every_ability() -> None:
    assert capabilities(ReferenceLayer) >= frozenset().union(
        *(p.needs for p in PROPERTIES.values())
    )
    assert capabilities(Layer) == frozenset()


@pytest.mark.parametrize(
    "tested", ["only_the_active_adapter_applies", "cat_combination_equals_the_weighted_sum"]
)
def test_the_second_adapter_has_a_rank_of_its_own(
    tested: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks, right = set(), ReferenceLayer.add_adapter

    def noted(self: ReferenceLayer, name: str, factors: Factors) -> None:
        ranks.add((self.held("default").rank, factors.rank))
        right(self, name, factors)

    monkeypatch.setattr(ReferenceLayer, "add_adapter", noted)
    run_property(PROPERTIES[tested], ReferenceLayer, examples=100)
    assert len({second for _, second in ranks}) > 3
    assert any(first != second for first, second in ranks)


def test_a_pass_that_remembers_the_last_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ReferenceLayer.forward

    def changed(self: Any, x: Array) -> Array:
        last, self.last = getattr(self, "last", x), x
        return right(self, x + 0.5 * (last - x))

    monkeypatch.setattr(ReferenceLayer, "forward", changed)
    with pytest.raises(PropertyFailed, match="the output of the second call is off"):
        run_property(PROPERTIES["forward_is_repeatable"], ReferenceLayer)


def test_patterns_that_are_saved_in_another_order_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(self: ReferenceModel, name: str) -> tuple[ReferenceModel, bool]:
        lora = copy.deepcopy(self.lora)
        lora.rank_pattern = dict(sorted(lora.rank_pattern.items()))
        return ReferenceModel(self.case, lora), True

    monkeypatch.setattr(ReferenceModel, "save_and_load", changed)
    with pytest.raises(PropertyFailed, match="a logit after loading as default is off"):
        run_property(
            PROPERTIES["model_pattern_order_survives_saving"], ReferenceModel, shrink=False
        )
    # Where the order decides nothing it is no matter.
    run_property(PROPERTIES["model_save_load_round_trip_is_exact"], ReferenceModel, examples=40)


def test_patterns_are_tried_with_every_start_but_the_one_that_knows_even_ranks_only() -> None:
    starts, tested = set(), PROPERTIES["model_pattern_order_survives_saving"]

    def check(kind: Any, case: Any, draw: Any) -> Iterator[Comparison]:
        for found in tested.check(kind, case, draw):
            starts.add(str(case.lora.init_lora_weights))
            yield found

    run_property(replace(tested, check=check), ReferenceModel, examples=200)
    assert "orthogonal" not in starts
    assert {"True", "gaussian"} <= starts


@pytest.mark.parametrize("exponent", [-8, 0, 8])
def test_the_bound_of_an_svd_goes_with_the_size_of_the_factors(exponent: int) -> None:
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

    tested = PROPERTIES["svd_combination_is_optimal_for_its_rank"]
    run_property(tested, Sized, examples=60, shrink=False)
    with pytest.raises(PropertyFailed, match="the distance of the svd"):
        run_property(tested, Off, examples=60, shrink=False)


def test_a_drift_that_only_later_cycles_have_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("size", [0.125, 8.0])
def test_doras_scale_is_not_turned_to_where_its_rows_have_no_direction(size: float) -> None:
    """W + k · delta is (1 - 0.4 · k) · W: at k = 2 and 3 less than a fifth of both lengths."""
    weight, A = np.array([[size, 0.0]]), np.array([[1.0, 0.0]])

    class Cancelling(ReferenceDora):
        @classmethod
        def cases(cls) -> Any:
            return super().cases().map(
                lambda case: replace(
                    case, dtype="float32", weight=weight, base_bias=None, x=np.ones((1, 2)),
                    factors=Factors(A=A, B=np.array([[-0.4 * size]]), scaling=1.0,
                                    magnitude=np.ones(1)),
                )
            )  # fmt: skip

    seen = _compared("forward_is_linear_in_scaling", Cancelling)
    where = {f"the output at {k} times the scaling" for k in ("0.5", "-1", "0")}
    assert seen == where | {"the output after the scale was reset"}


def _compared(tested: str, right: type[UnderTest], examples: int = 80) -> set[str]:
    """Name all that a property compares on many cases."""
    seen = set()

    def check(kind: Any, case: Any, draw: Any) -> Iterator[Comparison]:
        for found in PROPERTIES[tested].check(kind, case, draw):
            seen.add(found.what)
            yield found

    run_property(replace(PROPERTIES[tested], check=check), right, examples=examples, shrink=False)
    return seen
