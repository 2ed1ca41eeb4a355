"""Properties of the forward pass of an unmerged layer."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from phi3_lora_qa.lora import (
    Approximation,
    Array,
    Factors,
    delta,
    dense_forward_bound,
    exact,
    forward_bound,
    merged_forward_bound,
    output,
    unmerge_bound,
)
from phi3_lora_qa.properties.delta import FACTORS, scaled
from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.layer_property import (
    Comparison,
    Draw,
    check_statement,
    compare,
    layer_property,
)
from phi3_lora_qa.strategies import LayerCase


@layer_property()
def forward_adds_the_delta(layer: type[Layer], case: LayerCase, draw: Draw) -> Iterator[Comparison]:
    """The output is W·x + scaling · B·(A·x), or DoRA's if there is a magnitude."""
    yield compare_output(layer, "the output", layer.build(case).forward(case.x), case, case.factors)


@layer_property("set_scale")
def forward_is_linear_in_scaling(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """With k times the scaling the update is k times as large; reset to 1, it is bitwise unchanged.

    A factor of -1 negates the update; 0 leaves the base (with DoRA: its direction, at length m).
    """
    built = layer.build(case)
    before = built.forward(case.x)
    for k in FACTORS:
        factors = scaled(case.factors, k)
        if _has_direction(case, factors):
            built.set_scale(k)
            what = f"the output at {k:g} times the scaling"
            yield compare_output(layer, what, built.forward(case.x), case, factors)
    built.set_scale(1.0)
    yield compare("the output after the scale was reset", built.forward(case.x), before)


@layer_property()
def forward_is_repeatable(layer: type[Layer], case: LayerCase, draw: Draw) -> Iterator[Comparison]:
    """The same input gives bitwise the same output again."""
    built = layer.build(case)
    before = built.forward(case.x)
    built.forward(2.0 * case.x if layer.accepts_any_input else case.x)
    yield compare("the output of the second call", built.forward(case.x), before)


@layer_property()
def batch_rows_are_independent(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The output of a row does not depend on the other rows, nor on its position among them."""
    built = layer.build(case)
    order = np.array(draw(st.permutations(range(len(case.x)))))
    shuffled = built.forward(case.x[order])
    expected, bound = expected_output(layer, case, case.factors)
    yield compare("the output of a shuffled batch", shuffled, expected[order], bound[order])
    yield compare("the output of one row alone", built.forward(case.x[:1]), expected[:1],
                   bound[:1])  # fmt: skip


@layer_property("set_enabled")
def disabling_restores_the_base(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Disabled, the output is the base's; enabled again, it is bitwise what it was before."""
    built = layer.build(case)
    before = built.forward(case.x)
    built.set_enabled(enabled=False)
    yield compare_output(
        layer, "the output with the adapter disabled", built.forward(case.x), case, None
    )
    built.set_enabled(enabled=True)
    yield compare("the output with the adapter enabled again", built.forward(case.x), before)


@layer_property("output_dtype")
def output_dtype_matches_the_base(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The output has the dtype that the base alone would return."""
    found = layer.build(case).output_dtype(case.x, case.dtype)
    what = f"the output's dtype is {case.dtype} (found: {found})"
    yield check_statement(what, found == case.dtype)


@layer_property("save_and_load")
def save_load_round_trip_is_exact(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """After saving and loading onto the same base, factors and outputs are bitwise equal."""
    built = layer.build(case)
    loaded = built.save_and_load()
    before, after = built.factors(), loaded.factors()
    yield compare("A after loading", after.A, before.A)
    yield compare("B after loading", after.B, before.B)
    yield compare("the scaling after loading", np.array(after.scaling), np.array(before.scaling))
    yield compare("the output after loading", loaded.forward(case.x), built.forward(case.x))


def expected_output(
    layer: type[Layer], case: LayerCase, factors: Factors | None
) -> tuple[Array, Array]:
    """Return outputs (batch, out) and their bounds; without factors those of the base alone."""
    arithmetic = layer.arithmetic(case)
    used = factors or _zero_factors(case)
    found = output(case.weight, used, case.x)
    bound = _BOUNDS[layer.forward_form if factors else "factors"]
    allowed = bound(case.weight, used, case.x, arithmetic, case.base_bias)
    return found if case.base_bias is None else found + case.base_bias, allowed


def compare_output(
    layer: type[Layer], what: str, found: Array, case: LayerCase, factors: Factors | None
) -> Comparison:
    """Compare a layer's outputs with the reference."""
    expected, bound = expected_output(layer, case, factors)
    return compare(what, found, expected, bound)


def unmerged_base_output(layer: type[Layer], case: LayerCase) -> tuple[Array, Array]:
    """Return the base's outputs and bounds after a merge was undone in weight and bias."""
    arithmetic, f = layer.arithmetic(case), case.factors
    drift = unmerge_bound(case.weight, f, arithmetic)
    weight = Approximation(value=case.weight, error=drift)
    y = arithmetic.product(exact(case.x), weight.transposed())
    if case.base_bias is not None:
        bias, bias_drift = case.base_bias[:, None], np.zeros((len(case.base_bias), 1))
        if f.bias is not None:  # merged like a weight of one column
            column = Factors(A=np.ones((1, 1)), B=f.bias[:, None], scaling=f.scaling)
            bias_drift = unmerge_bound(bias, column, arithmetic)
        y = arithmetic.add(y, Approximation(value=bias.T, error=bias_drift.T))
    return y.value, y.error


_BOUNDS = {
    "factors": forward_bound,
    "delta": dense_forward_bound,
    "weight": merged_forward_bound,
}


def _zero_factors(case: LayerCase) -> Factors:
    f = case.factors
    return replace(f, A=np.zeros_like(f.A), B=np.zeros_like(f.B), magnitude=None, bias=None)


def _has_direction(case: LayerCase, factors: Factors) -> bool:
    """Return whether every row has a DoRA direction: none may vanish or nearly cancel."""
    if factors.magnitude is None:
        return True
    update = delta(factors)
    total = np.linalg.norm(case.weight + update, axis=1)
    parts = np.linalg.norm(case.weight, axis=1) + np.linalg.norm(update, axis=1)
    return bool(np.all(total > 0.2 * parts))
