"""Properties of merging the delta into the weight and of unmerging it."""

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from phi3_lora_qa.lora import merged_forward_bound, merged_weight, weight_bounds
from phi3_lora_qa.properties.forward import expected_output, unmerged_base_output
from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.layer_property import Comparison, Draw, compare, layer_property
from phi3_lora_qa.strategies import LayerCase


@layer_property("merge", "weight")
def merging_adds_the_delta_to_the_weight(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The merged weight is W + scaling · B·A, or DoRA's if there is a magnitude."""
    built = layer.build(case)
    built.merge()
    yield compare(
        "the merged weight",
        built.weight(),
        merged_weight(case.weight, case.factors),
        weight_bounds.merge_bound(case.weight, case.factors, layer.arithmetic(case)),
    )


@layer_property("merge")
def merged_output_matches_unmerged(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The output of the merged layer is that of the unmerged one."""
    built = layer.build(case)
    built.merge()
    expected, _ = expected_output(layer, case, case.factors)
    allowed = merged_forward_bound(
        case.weight, case.factors, case.x, layer.arithmetic(case), case.base_bias
    )
    yield compare("the output of the merged layer", built.forward(case.x), expected, allowed)


@layer_property("merge", "weight")
def merging_twice_adds_the_delta_once(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Merging a merged layer changes nothing."""
    built = layer.build(case)
    built.merge()
    once = built.weight()
    built.merge()
    yield compare("the weight merged twice", built.weight(), once)


@layer_property("merge", "unmerge", "weight")
def unmerging_restores_the_weight(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """After merging and unmerging, the weight differs by at most two roundings."""
    built = layer.build(case)
    built.merge()
    built.unmerge()
    allowed = weight_bounds.unmerge_bound(case.weight, case.factors, layer.arithmetic(case))
    yield compare("the weight after unmerging", built.weight(), case.weight, allowed)


@layer_property("merge", "unmerge", "weight")
def merge_cycles_do_not_drift(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """After n merge and unmerge cycles, the weight differs by at most the rounding of n cycles."""
    built, cycles = layer.build(case), draw(st.integers(2, 8))
    for _ in range(cycles):
        built.merge()
        built.unmerge()
    yield compare(
        f"the weight after {cycles} cycles",
        built.weight(),
        case.weight,
        weight_bounds.merge_cycles_bound(case.weight, case.factors, layer.arithmetic(case), cycles),
    )


@layer_property("merge", "unmerge")
def unmerging_an_unmerged_layer_changes_nothing(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Unmerging a layer that is not merged leaves its output bitwise unchanged."""
    built = layer.build(case)
    before = built.forward(case.x)
    built.unmerge()
    yield compare("the output after unmerging without a merge", built.forward(case.x), before)


@layer_property("merge", "set_enabled")
def disabling_while_merged_restores_the_base(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Disabling a merged layer first subtracts the delta from its weight."""
    built = layer.build(case)
    built.merge()
    built.set_enabled(enabled=False)
    expected, allowed = unmerged_base_output(layer, case)
    yield compare(
        "the output with the merged adapter disabled", built.forward(case.x), expected, allowed
    )


@layer_property("merge", "weight")
def merged_row_norms_equal_dora_magnitudes(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """With DoRA the norm of each row of the merged weight equals its magnitude."""
    magnitude = case.factors.magnitude
    if magnitude is None:
        return
    built = layer.build(case)
    built.merge()
    allowed = weight_bounds.merge_bound(case.weight, case.factors, layer.arithmetic(case))
    yield compare(
        "the norm of a merged row",
        np.linalg.norm(built.weight(), axis=1),
        np.abs(magnitude),
        np.linalg.norm(allowed, axis=1) + 2.0**-50 * np.abs(magnitude),
    )
