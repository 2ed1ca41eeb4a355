"""Bounds on combined and fused adapters, computed by hand and for drawn ones."""

from dataclasses import replace

import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Arithmetic, Block, Factors, Mixture

V, U = 2.0**-53, 2.0**-24
S = U + V
ONE = Factors(A=np.array([[5.0]]), B=np.array([[7.0]]), scaling=3.0)
TWO = Factors(A=np.array([[11.0]]), B=np.array([[1.0]]), scaling=1.0)


def units(bound: np.ndarray) -> float:
    assert bound.shape == (1, 1)
    return float(bound[0, 0]) / S


def near(expected: float) -> object:
    return pytest.approx(expected, rel=1e-5)


def test_a_weighted_sum_rounds_each_delta_each_weight_and_the_sum() -> None:
    found = units(lora.weighted_delta_bound([ONE, TWO], [3.0, 2.0], "float32"))
    # 315 for a product, a scaling and a weight; 22 for a product; 337 for the sum.
    assert found == near(3 * 315 + 22 + 337)
    alone = units(lora.weighted_delta_bound([ONE], [3.0], "float32"))
    assert alone == near(3 * 315)


def test_a_concatenation_rounds_a_twice_and_b_never() -> None:
    assert units(lora.concatenate_bound([ONE, TWO], [3.0, 2.0], "float32")) == near(2 * 315)
    assert units(lora.concatenate_bound([TWO], [5.0], "float32")) == near(55)


def test_an_exact_concatenation_leaves_the_rounding_of_the_reference() -> None:
    f = Factors(A=np.array([[5.0, -6.0], [7.0, 8.0]]), B=np.array([[1.0, -2.0]]), scaling=1.0)
    found = lora.concatenate_bound([f, f], [2.0, -4.0], "float32")
    ends = 3 * V / (1 - 3 * V) + 2 * V / (1 - 2 * V)
    expected = ends * 6 * np.array([[5 + 14, 6 + 16]])
    assert found == pytest.approx(expected, rel=1e-14, abs=0)


def test_every_adapter_needs_its_weight() -> None:
    for bound in (lora.weighted_delta_bound, lora.concatenate_bound):
        with pytest.raises(ValueError, match="zip"):
            bound([ONE], [1.0, 2.0], "float32")
    with pytest.raises(ValueError, match="zip"):
        lora.mix_bound([ONE], [1.0, 2.0], Mixture(), "float32")


def test_a_linear_mix_rounds_weights_products_and_the_sum() -> None:
    found = lora.mix_bound([ONE, TWO], [3.0, -4.0], Mixture(), "float32")
    # Weights 3 and 2, each within two roundings of its own.
    a, b = (15.0, 22.0), (21.0, 2.0)
    assert units(found.A) == near(3 * sum(a) + sum(a))
    assert units(found.B) == near(3 * sum(b) + sum(b))
    assert found.bias is None


def test_ties_divides_the_sum_by_the_number_of_agreeing_tensors() -> None:
    found = lora.mix_bound([ONE, TWO], [3.0, -4.0], Mixture(kind="ties"), "float32")
    assert units(found.A) == near(4 * 37 / 2 + 37 / 2)
    opposed = replace(TWO, A=-TWO.A)
    found = lora.mix_bound([ONE, opposed], [3.0, 4.0], Mixture(kind="ties"), "float32")
    # Only the second counts, 22, and the sum of one other is zero.
    assert units(found.A) == near(3 * 22 + 22 + 22)


def test_there_is_no_bound_where_the_majority_depends_on_rounding() -> None:
    rival = replace(ONE, A=-ONE.A)
    total, counted = Mixture(kind="ties"), Mixture(kind="ties", majority="frequency")
    assert units(lora.mix_bound([ONE, rival], [1.0, 1.0], total, "float32").A) == np.inf
    assert np.isfinite(lora.mix_bound([ONE, rival], [1.0, 1.0], counted, "float32").A).all()
    nothing = replace(ONE, A=np.zeros((1, 1)))
    found = lora.mix_bound([nothing, nothing], [1.0, 1.0], total, "float32")
    assert units(found.A) == 0.0


def test_there_is_no_bound_where_pruning_chooses_among_equals() -> None:
    f = Factors(A=np.array([[3.0, -3.0, 1.0, 5.0]]), B=np.ones((1, 1)), scaling=1.0)
    pruning = Mixture(kind="magnitude_prune", density=0.5)
    found = lora.mix_bound([f], [1.0], pruning, "float32").A[0]
    assert np.isinf(found).tolist() == [True, True, False, False]
    flipped = replace(f, A=np.array([[-1.0, 1.0, 0.5, 5.0]]))
    found = lora.mix_bound([flipped], [1.0], pruning, "float32").A[0]
    assert np.isinf(found).tolist() == [True, True, False, False]
    found = lora.mix_bound([f], [1.0], replace(pruning, density=0.75), "float32").A[0]
    assert np.isfinite(found).all()


LAYOUT = (Block(name="gate_proj", rows=1), Block(name="up_proj", rows=1))


def test_fusing_is_exact_for_powers_of_two_and_otherwise_costs_two_roundings() -> None:
    folded = replace(ONE, scaling=0.75)
    assert not lora.fuse_bound({"gate_proj": ONE, "up_proj": folded}, LAYOUT, "float32").any()
    thirds = replace(ONE, scaling=1.0)
    bound = lora.fuse_bound({"gate_proj": ONE, "up_proj": thirds}, LAYOUT, "float32")
    assert bound[0, 0] == 0.0
    gamma = 2 * V / (1 - 2 * V)
    folds = 7 / 3 * gamma + 7 / 3 * (1 + gamma) * S + 2.0**-126
    assert bound[1, 0] == pytest.approx(3 * 5 * folds, rel=1e-14, abs=0)
    mirrored = replace(thirds, A=-thirds.A, B=-thirds.B)
    again = lora.fuse_bound({"gate_proj": ONE, "up_proj": mirrored}, LAYOUT, "float32")
    assert np.array_equal(again, bound)
    wide = replace(thirds, A=np.array([[5.0], [2.0]]), B=np.array([[7.0, -7.0]]))
    again = lora.fuse_bound({"gate_proj": ONE, "up_proj": wide}, LAYOUT, "float32")
    assert again[1, 0] == pytest.approx(3 * 7 * folds, rel=1e-14, abs=0)


def test_a_fold_that_leaves_the_dtype_is_counted() -> None:
    small = replace(ONE, B=np.array([[2.0**-24]]), scaling=0.75)
    bound = lora.fuse_bound({"gate_proj": ONE, "up_proj": small}, LAYOUT, "float16")
    assert bound[1, 0] == 3 * 5 * 2.0**-26
    higher = replace(small, B=np.array([[3 * 2.0**-24]]))
    bound = lora.fuse_bound({"gate_proj": ONE, "up_proj": higher}, LAYOUT, "float16")
    assert bound[1, 0] == 3 * 5 * 2.0**-26
    large = replace(ONE, B=np.array([[60000.0]]), scaling=6.0)
    assert np.isinf(lora.fuse_bound({"gate_proj": ONE, "up_proj": large}, LAYOUT, "float16")[1, 0])


def test_fusing_nothing_has_no_error() -> None:
    zero = replace(ONE, scaling=0.0)
    assert not lora.fuse_bound({"up_proj": zero}, LAYOUT, "float16").any()


def test_folding_stays_within_its_bound_and_the_bound_is_tight() -> None:
    rng = np.random.default_rng(0)
    looseness = []
    layout = lora.gate_up_layout(intermediate=3)
    for number in range(1000):
        dtype = ("float32", "bfloat16", "float16")[number % 3]
        parts = {
            name: Factors(
                A=lora.round_to(rng.standard_normal((2, 4)), dtype),
                B=lora.round_to(rng.standard_normal((3, 2)), dtype),
                scaling=float(rng.choice([2.0, 4 / 3, 16 / 7, 0.3])),
            )
            for name in ("gate_proj", "up_proj")
        }
        fused = lora.fuse(parts, layout, rounded=True)
        kept = replace(fused, B=lora.round_to(fused.B, dtype))
        expected = np.concatenate([lora.delta(f) for f in parts.values()])
        bound = lora.fuse_bound(parts, layout, dtype)
        error = np.abs(lora.delta(kept) - expected)
        own = lora.delta_bound(kept, "float64") + np.concatenate(
            [lora.delta_bound(f, "float64") for f in parts.values()]
        )
        assert np.all(error <= bound + own)
        if bound.any():
            looseness.append(1 / float(lora.ratios(error[3:], bound[3:]).max()))
    assert len(looseness) > 600
    assert np.median(looseness) < 100


def test_the_worst_case_is_no_better_than_the_usual() -> None:
    worst = Arithmetic(dtype="float16", accumulate="float16")
    wide = replace(ONE, A=np.ones((3, 1)), B=np.ones((1, 3)))
    usual = lora.weighted_delta_bound([wide], [1.0], "float16")
    assert lora.weighted_delta_bound([wide], [1.0], worst) > usual
