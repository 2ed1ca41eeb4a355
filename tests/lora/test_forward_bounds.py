"""Bounds on outputs, computed by hand: one input, one output, rank 1, so sums have one term."""

from dataclasses import replace

import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Array, Factors

V, U = 2.0**-53, 2.0**-24
S = U + V
"""One rounding, of the computed value and of the reference."""
F = Factors(A=np.array([[5.0]]), B=np.array([[7.0]]), scaling=3.0)
W, X = np.array([[2.0]]), np.array([[11.0]])
BASE, LOW, UPDATE, Y = 22.0, 385.0, 1155.0, 1177.0
"""W·x, B·(A·x), s times that, and y."""


def units(bound: Array) -> float:
    """Return a bound in units of u, to first order."""
    assert bound.shape == (1, 1)
    return float(bound[0, 0]) / S


def near(expected: float) -> object:
    return pytest.approx(expected, rel=1e-5)


def test_the_unmerged_pass_rounds_each_product_the_scaling_and_the_sum() -> None:
    # Base 1, A·x 1 (through B and s), B·h 1 (through s), scaling 1, sum 1.
    found = units(lora.forward_bound(W, F, X, "float32"))
    assert found == near(BASE + 3 * UPDATE + Y)


def test_a_power_of_two_saves_the_scalings_rounding() -> None:
    found = units(lora.forward_bound(W, replace(F, scaling=4.0), X, "float32"))
    assert found == near(BASE + 2 * 4 * LOW + BASE + 4 * LOW)


def test_in_float16_every_step_is_stored_once() -> None:
    found = lora.forward_bound(W, replace(F, scaling=2.0), X, "float16")[0, 0] / 2.0**-11
    assert found == pytest.approx(BASE + 2 * 2 * LOW + BASE + 2 * LOW, rel=5e-3)


def test_biases_are_added_and_rounded_at_their_step() -> None:
    biased = replace(F, bias=np.array([100.0]))
    found = units(lora.forward_bound(W, biased, X, "float32"))
    total = 3 * (LOW + 100)
    assert found == near(BASE + 2 * UPDATE + 2 * total + BASE + total)
    found = units(lora.forward_bound(W, F, X, "float32", np.array([1000.0])))
    assert found == near(2 * (BASE + 1000) + 3 * UPDATE + Y + 1000)


def test_dora_is_counted_as_peft_computes_it() -> None:
    f = replace(F, magnitude=np.array([428.0]))  # V = 2 + 105 = 107, so g is 4
    delta, g = 3 * 105 - 105, 4.0
    norm = delta + 107 + 1.5 * 107  # of V: its error, the sum; then half a gamma and a root
    gain = g * norm / 107 + g  # the quotient
    more = (gain + 3) * BASE + 3 * BASE + 3 * BASE  # g - 1; times W·x, which errs by BASE
    scaled = gain * LOW + g * 2 * LOW + g * LOW
    update = 3 * scaled + 3 * g * LOW
    inner = more + update + (3 * BASE + g * UPDATE)
    expected = BASE + inner + g * Y
    assert units(lora.forward_bound(W, f, X, "float32")) == near(expected)


def test_dora_on_a_biased_base_subtracts_the_bias_first() -> None:
    f = replace(F, magnitude=np.array([428.0]))
    plain = units(lora.forward_bound(W, f, X, "float32"))
    found = units(lora.forward_bound(W, f, X, "float32", np.array([1000.0])))
    # One summand more, and a difference that carries it, both into g - 1 = 3 times it; y is larger.
    expected = plain + (BASE + 2000) + 3 * (BASE + 2000 + BASE) + 1000
    assert found == near(expected)


def test_an_input_that_is_inexact_in_the_dtype_is_rounded_for_the_adapter() -> None:
    x = np.array([[11.0 + 2.0**-10]])
    rough = lora.forward_bound(W, replace(F, scaling=2.0), x, "float16")[0, 0]
    plain = lora.forward_bound(W, replace(F, scaling=2.0), X, "float16")[0, 0]
    assert rough - plain == pytest.approx(2 * 35 * 2.0**-10, rel=0.05)


def test_several_adapters_are_added_one_after_another() -> None:
    found = units(lora.sum_forward_bound(W, [F, replace(F, scaling=-3.0)], X, "float32"))
    assert found == near(BASE + 3 * UPDATE + Y + 3 * UPDATE + BASE)
    assert units(lora.sum_forward_bound(W, [], X, "float32")) == near(BASE)


def test_a_dense_update_is_formed_first() -> None:
    found = units(lora.dense_forward_bound(W, F, X, "float32"))
    assert found == near(3 * UPDATE + BASE + Y)


def test_the_merged_pass_carries_the_merges_error() -> None:
    merge = units(lora.merge_bound(W, F, "float32"))
    found = units(lora.merged_forward_bound(W, F, X, "float32"))
    assert found == near(11 * merge + Y)
    biased = replace(F, bias=np.array([100.0]))
    found = units(lora.merged_forward_bound(W, biased, X, "float32"))
    assert found == near(11 * merge + 300 + 2 * (Y + 300))
    found = units(lora.merged_forward_bound(W, biased, X, "float32", np.array([1000.0])))
    assert found == near(11 * merge + 300 + 1300 + 2 * (Y + 1300))


def test_bounds_have_the_shape_of_the_outputs() -> None:
    f = Factors(A=np.ones((2, 3)), B=np.ones((4, 2)), scaling=1.0)
    weight, x = np.ones((4, 3)), np.ones((5, 6, 3))
    shapes = {
        lora.forward_bound(weight, f, x, "float32").shape,
        lora.sum_forward_bound(weight, [f], x, "float32").shape,
        lora.dense_forward_bound(weight, f, x, "float32").shape,
        lora.merged_forward_bound(weight, f, x, "float32").shape,
    }
    assert shapes == {(5, 6, 4)}
    assert lora.forward_bound(weight, f, x[0, 0], "float32").shape == (4,)


def test_a_lookup_costs_no_more_for_a_larger_vocabulary() -> None:
    rng = np.random.default_rng(0)
    few = Factors(A=rng.standard_normal((2, 3)), B=rng.standard_normal((4, 2)), scaling=3.0)
    many = replace(few, A=np.pad(few.A, ((0, 0), (0, 500)), constant_values=9.0))
    weight = rng.standard_normal((4, 3))
    wide = np.pad(weight, ((0, 0), (0, 500)), constant_values=9.0)
    small = lora.forward_bound(weight, few, np.eye(3), "float32")
    large = lora.forward_bound(wide, many, np.eye(503)[:3], "float32")
    assert large == pytest.approx(small, rel=1e-12, abs=0)
