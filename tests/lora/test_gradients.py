import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Factors

PINNED = Factors(
    A=np.array([[1.0, 2.0], [0.0, -1.0]]),
    B=np.array([[1.0, 0.0], [2.0, 3.0], [0.0, 1.0]]),
    scaling=2.0,
    bias=np.zeros(3),
)
X = np.array([[1.0, 1.0], [0.0, 2.0]])
G = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
U, V = 2.0**-24, 2.0**-53


def test_the_gradients_are_those_of_the_formulas() -> None:
    found = lora.factor_gradients(PINNED, X, G)
    # s · g·B = [[2, -2], [4, 6]] and A·x = [[3, -1], [4, -2]] for the two rows
    assert found.A.tolist() == [[2, 10], [-2, 10]]
    assert found.B.tolist() == [[6, -2], [8, -4], [-6, 2]]
    assert found.bias is not None
    assert found.bias.tolist() == [2, 2, -2]


def test_a_batch_of_any_shape_is_summed_up() -> None:
    found = lora.factor_gradients(PINNED, X.reshape(2, 1, 2), G.reshape(2, 1, 3))
    assert found.A.tolist() == [[2, 10], [-2, 10]]


def test_the_bound_of_a_batch_of_any_shape_is_that_of_its_rows() -> None:
    flat = lora.gradient_bound(PINNED, X, G, "float16")
    found = lora.gradient_bound(PINNED, X.reshape(2, 1, 2), G.reshape(2, 1, 3), "float16")
    assert np.array_equal(found.A, flat.A)
    assert np.array_equal(found.B, flat.B)


def test_without_lora_bias_there_is_no_gradient_for_it() -> None:
    plain = Factors(A=PINNED.A, B=PINNED.B, scaling=2.0)
    assert lora.factor_gradients(plain, X, G).bias is None
    assert lora.gradient_bound(plain, X, G, "float32").bias is None


def test_at_step_zero_only_the_factor_that_is_not_zero_waits() -> None:
    fresh = Factors(A=PINNED.A, B=np.zeros((3, 2)), scaling=2.0)
    found = lora.factor_gradients(fresh, X, G)
    assert not found.A.any()
    assert found.B.any()
    assert not lora.gradient_bound(fresh, X, G, "bfloat16").A.any()


def test_the_bound_counts_each_sum_of_the_chain_once() -> None:
    """One row, one of everything: each product is a single term, and s = 3 rounds."""
    f = Factors(A=np.array([[5.0]]), B=np.array([[7.0]]), scaling=3.0, bias=np.zeros(1))
    bound = lora.gradient_bound(f, np.array([[11.0]]), np.array([[13.0]]), "float32")
    one = U / (1 - U) + V / (1 - V)
    g = 39 * (U + V)
    gb = 7 * g + one * 7 * (39 + g)
    ax = one * 55
    assert np.isclose(bound.A[0, 0], 11 * gb + one * 11 * (273 + gb), rtol=1e-9, atol=0)
    assert np.isclose(
        bound.B[0, 0], 55 * g + 39 * ax + g * ax + one * (39 + g) * (55 + ax), rtol=1e-9
    )
    assert bound.bias is not None
    assert np.isclose(bound.bias[0], g + one * (39 + g), rtol=1e-9, atol=0)
