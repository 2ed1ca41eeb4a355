from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Factors
from phi3_lora_qa.properties import to_float64
from phi3_lora_qa.strategies import LayerCase, linear_cases
from tests.lora.drawing import cases, with_magnitude
from tests.strategies.drawing import QUICK

PINNED = Factors(
    A=np.array([[1.0, 2.0], [0.0, -1.0]]),
    B=np.array([[1.0, 0.0], [2.0, 3.0], [0.0, 1.0]]),
    scaling=2.0,
    bias=np.zeros(3),
)
W = np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
X = np.array([[1.0, 1.0], [0.0, 2.0]])
G = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
U, V = 2.0**-24, 2.0**-53


def test_the_gradients_are_those_of_the_formulas() -> None:
    found = lora.factor_gradients(W, PINNED, X, G)
    # s · g·B = [[2, -2], [4, 6]] and A·x = [[3, -1], [4, -2]] for the two rows
    assert found.A.tolist() == [[2, 10], [-2, 10]]
    assert found.B.tolist() == [[6, -2], [8, -4], [-6, 2]]
    assert found.bias is not None
    assert found.bias.tolist() == [2, 2, -2]


def test_a_batch_of_any_shape_is_summed_up() -> None:
    found = lora.factor_gradients(W, PINNED, X.reshape(2, 1, 2), G.reshape(2, 1, 3))
    assert found.A.tolist() == [[2, 10], [-2, 10]]


def test_the_bound_of_a_batch_of_any_shape_is_that_of_its_rows() -> None:
    flat = lora.gradient_bound(W, PINNED, X, G, "float16")
    found = lora.gradient_bound(W, PINNED, X.reshape(2, 1, 2), G.reshape(2, 1, 3), "float16")
    assert np.array_equal(found.A, flat.A)
    assert np.array_equal(found.B, flat.B)


def test_without_lora_bias_there_is_no_gradient_for_it() -> None:
    plain = Factors(A=PINNED.A, B=PINNED.B, scaling=2.0)
    assert lora.factor_gradients(W, plain, X, G).bias is None
    assert lora.gradient_bound(W, plain, X, G, "float32").bias is None


def test_at_step_zero_only_the_nonzero_factor_has_no_gradient() -> None:
    fresh = Factors(A=PINNED.A, B=np.zeros((3, 2)), scaling=2.0)
    found = lora.factor_gradients(W, fresh, X, G)
    assert not found.A.any()
    assert found.B.any()
    assert not lora.gradient_bound(W, fresh, X, G, "bfloat16").A.any()


def test_the_bound_counts_each_sum_of_the_chain_once() -> None:
    """One row, one of everything: each product is a single term, and s = 3 rounds."""
    f = Factors(A=np.array([[5.0]]), B=np.array([[7.0]]), scaling=3.0, bias=np.zeros(1))
    x, g = np.array([[11.0]]), np.array([[13.0]])
    bound = lora.gradient_bound(np.ones((1, 1)), f, x, g, "float32")
    one = U / (1 - U) + V / (1 - V)
    sg = 39 * (U + V)
    gb = 7 * sg + one * 7 * (39 + sg)
    ax = one * 55
    assert np.isclose(bound.A[0, 0], 11 * gb + one * 11 * (273 + gb), rtol=1e-9, atol=0)
    assert np.isclose(
        bound.B[0, 0], 55 * sg + 39 * ax + sg * ax + one * (39 + sg) * (55 + ax), rtol=1e-9
    )
    assert bound.bias is not None
    assert np.isclose(bound.bias[0], sg + one * (39 + sg), rtol=1e-9, atol=0)


def test_a_layer_that_forms_its_delta_has_the_gradient_of_that_rounded() -> None:
    """D = (s·g)ᵀ·x is stored; the columns of D·Aᵀ may cancel, but D's rounding errors remain."""
    f = Factors(A=np.array([[1.0, 1.0]]), B=np.array([[7.0]]), scaling=3.0)
    x, g = np.array([[11.0, -10.0]]), np.array([[3.0]])
    bound = lora.gradient_bound(np.ones((1, 2)), f, x, g, "float32", forms_delta=True)
    one, two = (n * U / (1 - n * U) + V / (1 - V) for n in (1, 2))
    sg = 9 * (U + V)
    d = np.array([11, 10]) * sg + one * np.array([11, 10]) * (9 + sg)
    of_a = 7 * d + one * 7 * (np.array([99, 90]) + d)
    assert np.allclose(bound.A[0], of_a, rtol=1e-6, atol=0)
    assert np.isclose(bound.B[0, 0], d.sum() + two * (189 + d.sum()), rtol=1e-6)


def test_torchs_gradient_through_a_delta_is_within_that_bound_alone() -> None:
    """A case that hypothesis found for loralib's MergedLinear in bfloat16."""
    f = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=1.0)
    x, g = np.array([[0.1259765625, -0.1318359375]]), np.array([[3.0]])
    a, b = (
        torch.ones(shape, dtype=torch.bfloat16, requires_grad=True) for shape in ((1, 2), (1, 1))
    )
    y = torch.from_numpy(x).bfloat16() @ (b @ a).T
    y.backward(torch.from_numpy(g).bfloat16())
    assert b.grad is not None
    error = abs(float(b.grad) - float(lora.factor_gradients(np.ones((1, 2)), f, x, g).B[0, 0]))
    given = np.ones((1, 2)), f, x, g, "bfloat16"
    assert lora.gradient_bound(*given).B[0, 0] < error
    assert error <= lora.gradient_bound(*given, forms_delta=True).B[0, 0]


DORA = Factors(A=np.array([[1.0, 0.0]]), B=np.ones((1, 1)), scaling=2.0, magnitude=np.array([10.0]))


def test_doras_gradients_treat_the_norms_as_constant() -> None:
    # V = [1, 4] + 2·[1, 0] = [3, 4], so N = 5, m / N = 2, and V·x = 7.
    found = lora.factor_gradients(np.array([[1.0, 4.0]]), DORA, np.ones((1, 2)), np.ones((1, 1)))
    assert found.A.tolist() == [[4, 4]]
    assert found.B.tolist() == [[4]]
    assert found.magnitude is not None
    assert found.magnitude.tolist() == [7 / 5]


def test_without_dora_there_is_no_gradient_of_a_magnitude() -> None:
    assert lora.factor_gradients(W, PINNED, X, G).magnitude is None
    assert lora.gradient_bound(W, PINNED, X, G, "float32").magnitude is None


def test_at_step_zero_the_magnitude_moves_and_a_does_not() -> None:
    fresh = replace(DORA, B=np.zeros((1, 1)))
    given = np.array([[1.0, 4.0]]), fresh, np.ones((1, 2)), np.ones((1, 1))
    found = lora.factor_gradients(*given)
    assert not found.A.any()
    assert found.B.any()
    assert found.magnitude is not None
    assert found.magnitude.any()
    assert not lora.gradient_bound(*given, "bfloat16").A.any()


def autograd(weight: lora.Array, f: Factors, x: lora.Array, g: lora.Array) -> lora.FactorArrays:
    """Compare with autograd on DoRA's formula in float64 with a detached norm."""
    assert f.magnitude is not None
    a, b, m = (torch.tensor(v, requires_grad=True) for v in (f.A, f.B, f.magnitude))
    base, inputs = torch.tensor(weight), torch.tensor(x)
    norm = (base + f.scaling * (b @ a)).norm(dim=1).detach()
    y = m / norm * (inputs @ base.T + f.scaling * (inputs @ a.T @ b.T))
    y.backward(torch.tensor(g))
    assert a.grad is not None
    assert b.grad is not None
    assert m.grad is not None
    return lora.FactorArrays(
        A=to_float64(a.grad), B=to_float64(b.grad), magnitude=to_float64(m.grad)
    )


def agree_in_float64(weight: lora.Array, f: Factors, x: lora.Array, g: lora.Array) -> None:
    found, expected = autograd(weight, f, x, g), lora.factor_gradients(weight, f, x, g)
    bound = lora.gradient_bound(weight, f, x, g, "float64")
    for part in ("A", "B", "magnitude"):
        error = np.abs(getattr(found, part) - getattr(expected, part))
        assert np.all(error <= getattr(bound, part)), part


def test_doras_gradients_match_autograd_with_a_detached_norm() -> None:
    for rng, plain in cases("float32", seed=14, extreme=False, count=1000):
        case = with_magnitude(rng, plain, "float32")
        agree_in_float64(case.weight, case.factors, case.x, case.gradient)


@QUICK
@given(linear_cases(magnitude=True, max_side=6))
def test_doras_gradients_match_autograd_on_extreme_cases(case: LayerCase) -> None:
    g = np.cos(np.arange(float(len(case.x) * len(case.weight)))).reshape(len(case.x), -1)
    agree_in_float64(case.weight, case.factors, case.x, g)


def test_the_bound_counts_doras_steps_as_autograd_takes_them() -> None:
    """One of everything, in units of one rounding: V = 2 + 105 = 107 and m / N = 4."""
    f = Factors(A=np.array([[5.0]]), B=np.array([[7.0]]), scaling=3.0, magnitude=np.array([428.0]))
    given = np.array([[2.0]]), f, np.array([[11.0]]), np.array([[13.0]])
    bound = lora.gradient_bound(*given, "float32")
    norm = (3 * 35 + 105) + 107 + 1.5 * 107  # delta, the sum; half a gamma and a root
    gain = 4 * norm / 107 + 4
    pulled = 4 * 39 + gain * 39 + 156  # of m / N · (3 · 13)
    assert bound.A[0, 0] / (U + V) == pytest.approx(11 * (7 * pulled + 1092) + 12012, rel=1e-5)
    assert bound.B[0, 0] / (U + V) == pytest.approx(55 * pulled + 156 * 55 + 8580, rel=1e-5)
    base = 13 * 22 + 286 + 286  # W·x errs by 22, times 13, and a sum of one
    update = 39 * 770 + 39 * 385 + 15015 + 15015  # B·(A·x) errs by 770, 39 by itself
    expected = (base + update + 15301 + 143 * norm) / 107 + 143
    assert bound.magnitude is not None
    assert bound.magnitude[0] / (U + V) == pytest.approx(expected, rel=1e-5)


def test_a_bias_of_the_base_is_added_and_subtracted_for_the_gradient_of_the_magnitude() -> None:
    given = np.array([[1.0, 4.0]]), DORA, np.ones((1, 2)), np.ones((1, 1)), "float32"
    plain = lora.gradient_bound(*given)
    biased = lora.gradient_bound(*given, base_bias=np.array([1000.0]))
    assert plain.magnitude is not None
    assert biased.magnitude is not None
    # W·x + b rounds 3 terms of 1005, the difference one: instead of 2 of 5, over N = 5.
    more = (3 * 1005 + 5 - 2 * 5) / 5
    assert (biased.magnitude - plain.magnitude)[0] / (U + V) == pytest.approx(more, rel=1e-3)
    assert np.array_equal(biased.A, plain.A)
    assert np.array_equal(biased.B, plain.B)


def test_rows_summed_in_the_dtype_itself_cost_a_rounding_each() -> None:
    f = Factors(A=np.ones((1, 1)), B=np.ones((1, 1)), scaling=1.0)
    given = np.ones((1, 1)), f, np.ones((3, 1)), np.ones((3, 1)), "float16"
    usual = lora.gradient_bound(*given)
    own = lora.Arithmetic(dtype="float16", accumulate="float16")
    found = lora.gradient_bound(*given, batch=own)
    # s·g·B and A·x are stored once each, and carried through three rows; then 3 terms of 1.
    for bound, terms in ((usual, 1), (found, 3)):
        for part in (bound.A, bound.B):
            assert part[0, 0] / 2.0**-11 == pytest.approx(3 + 3 * terms, rel=5e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_torch_sums_the_gradients_of_a_token_in_the_dtype(dtype: str) -> None:
    """1 + u/2 + u/2 + ... stays 1."""
    kind, u = getattr(torch, dtype), lora.format_of(dtype).unit_roundoff
    table = torch.nn.Embedding(2, 1, dtype=kind)
    g = torch.full((64, 1), u / 2, dtype=kind)
    g[0] = 1.0
    table(torch.zeros(64, dtype=torch.long)).backward(g)
    assert table.weight.grad is not None
    assert table.weight.grad[0, 0] == 1.0


def test_torch_sums_the_gradients_of_a_kernel_over_a_batch_in_float16() -> None:
    kernel = torch.nn.Conv1d(1, 1, 1, bias=False, dtype=torch.float16)
    x = torch.full((64, 1, 1), 2.0**-12, dtype=torch.float16)
    x[0] = 1.0
    kernel(x).sum().backward()
    assert kernel.weight.grad is not None
    assert kernel.weight.grad.item() == 1.0
