from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Array, Factors, Mixture
from tests.lora.drawing import CASES, cases, to_numpy

ONE = Factors(A=np.array([[1.0, 2.0]]), B=np.array([[1.0], [0.0]]), scaling=4.0)
TWO = Factors(A=np.array([[0.0, 3.0]]), B=np.array([[2.0], [1.0]]), scaling=1.0)
SUM = [[8.0, 4.0], [0.0, -6.0]]  # 2 · ONE - 2 · TWO


def test_the_weighted_delta_is_the_weighted_sum() -> None:
    assert lora.weighted_delta([ONE, TWO], [2.0, -2.0]).tolist() == [[8, 4], [0, -6]]


def test_a_concatenation_has_the_summed_rank_and_the_sums_delta() -> None:
    f = lora.concatenate([ONE, TWO], [2.0, -2.0])
    assert f.A.tolist() == [[8, 16], [0, -6]]
    assert f.B.tolist() == [[1, 2], [0, 1]]
    assert f.scaling == 1.0
    assert lora.delta(f).tolist() == SUM


def test_an_adapter_minus_itself_is_zero() -> None:
    assert not lora.delta(lora.concatenate([ONE, ONE], [1.0, -1.0])).any()


def test_the_best_rank_k_part_omits_exactly_the_tail_in_a_thousand_draws() -> None:
    count = 0
    for dtype in ("float32", "bfloat16", "float16"):
        for rng, case in cases(dtype, seed=42):
            other = replace(case.factors, A=rng.permuted(case.factors.A, axis=1), scaling=0.7)
            joined = lora.concatenate([case.factors, other], [1.0, -0.4])
            dense = lora.weighted_delta([case.factors, other], [1.0, -0.4])
            rank = int(rng.integers(1, 5))
            best = lora.truncate(joined, rank)
            values = np.linalg.svdvals(dense)
            left = dense - lora.delta(best.factors)
            size = 2.0**-40 * np.linalg.norm(joined.A) * np.linalg.norm(joined.B)
            assert abs(np.linalg.norm(left) - np.linalg.norm(best.tail)) <= size
            assert abs(np.linalg.norm(left, 2) - np.max(best.tail, initial=0.0)) <= size
            expected = np.zeros_like(best.tail)
            expected[: len(values[rank:])] = values[rank:][: len(expected)]
            assert np.abs(best.tail - expected).max(initial=0.0) <= size
            assert best.factors.rank == min(rank, joined.rank, *dense.shape)
            count += 1
    assert count >= 3 * CASES


def test_the_truncated_factors_are_laid_out_as_pefts() -> None:
    best = lora.truncate(replace(ONE, A=np.array([[3.0, 4.0]])), 1).factors
    assert np.abs(best.A) == pytest.approx(np.array([[0.6, 0.8]]))
    assert np.abs(best.B) == pytest.approx(np.array([[20.0], [0.0]]))
    assert best.scaling == 1.0
    assert lora.delta(best) == pytest.approx(np.array([[12.0, 16.0], [0.0, 0.0]]))


def test_truncating_to_the_full_rank_loses_nothing() -> None:
    best = lora.truncate(lora.concatenate([ONE, TWO], [2.0, -2.0]), 9)
    assert best.tail.size == 0
    assert lora.delta(best.factors) == pytest.approx(np.array(SUM), abs=1e-13)


def test_a_dense_difference_is_factorized_to_its_best_rank_k_part() -> None:
    found = lora.factorize(np.array([[0.0, 5.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), 2)
    assert lora.delta(found.factors) == pytest.approx(
        np.array([[0.0, 5.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), abs=1e-15
    )
    assert found.tail.tolist() == [1.0]
    assert found.factors.A.shape == (2, 3)
    assert found.factors.B.shape == (3, 2)
    assert np.linalg.norm(found.factors.A, axis=1) == pytest.approx([1.0, 1.0])


@pytest.mark.slow
def test_pefts_svd_omits_the_same_tail() -> None:
    import torch
    from peft.tuners.lora import LoraModel

    from tests.lora.peft_oracles import several

    combine = vars(LoraModel)["_svd_generalized_task_arithmetic_weighted_adapter"]
    for rng, case in cases("float32", seed=43, count=1000, extreme=False):
        names, weights = ["first", "second"], [1.0, -0.5]
        layer, own = several(rng, case, "float32", names)
        dense = lora.weighted_delta(own, weights)
        rank = min(2, *dense.shape)
        with torch.no_grad():
            a, b = combine(None, "svd", names, weights, rank, layer, None, None, None, "", None)
        best = lora.truncate(lora.concatenate(own, weights), rank)
        left = np.linalg.norm(dense - to_numpy(b) @ to_numpy(a))
        size = sum(np.linalg.norm(f.A) * np.linalg.norm(f.B) for f in own)
        assert abs(left - np.linalg.norm(best.tail)) <= 2.0**-18 * size


def test_mixing_factors_linearly_gives_cross_terms_and_the_sign_to_a() -> None:
    f = lora.mix_factors([ONE, TWO], [1.0, -9.0], Mixture())
    assert f.A.tolist() == [[2.0, -5.0]]
    assert f.B.tolist() == [[8.0], [3.0]]
    assert f.scaling == 1.0


def test_a_linear_mix_of_one_adapter_is_that_adapter() -> None:
    for weight in (1.0, -1.0, 4.0):
        found = lora.delta(lora.mix_factors([ONE], [weight], Mixture()))
        assert found == pytest.approx(weight * lora.delta(ONE))


TENSORS = [np.array([4.0, -1.0, 0.5, 3.0]), np.array([-2.0, -3.0, 1.0, 0.0])]


def test_a_linear_mix_is_a_weighted_sum() -> None:
    assert lora.mix(TENSORS, [2.0, -1.0], Mixture(density=0.1)).tolist() == [10, 1, 0, 6]


def test_pruning_keeps_the_largest_magnitudes_only() -> None:
    def kept(density: float) -> list[float]:
        found = lora.mix([TENSORS[0]], [1.0], Mixture(kind="magnitude_prune", density=density))
        return [float(x) for x in found]

    assert kept(0.5) == [4, 0, 0, 3]
    assert kept(0.74) == [4, 0, 0, 3]  # int(0.74 · 4) is 2
    assert kept(0.75) == [4, -1, 0, 3]
    assert kept(0.0) == [0, 0, 0, 0]
    assert kept(1.0) == [4, -1, 0.5, 3]
    assert kept(1.5) == [4, -1, 0.5, 3]


def test_a_pruned_matrix_keeps_its_shape() -> None:
    matrix = np.array([[1.0, -8.0], [9.0, 2.0]])
    found = lora.mix([matrix], [3.0], Mixture(kind="magnitude_prune", density=0.5))
    assert found.tolist() == [[0, -24], [27, 0]]


def test_ties_averages_over_those_that_agree_with_the_majority() -> None:
    ties = lora.mix(TENSORS, [1.0, 10.0], Mixture(kind="ties"))
    # Sums 2, -4, 1.5, 3: the first takes 4 alone, the second both, the fourth 3 alone.
    assert ties.tolist() == [4.0, (-1 - 30) / 2, (0.5 + 10) / 2, 3.0]


def test_the_majority_may_be_counted_and_a_tie_is_positive() -> None:
    three = [np.array([5.0, 1.0, 0.0]), np.array([-1.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])]
    total = lora.mix(three, [1.0, 1.0, 1.0], Mixture(kind="ties", majority="total"))
    counted = lora.mix(three, [1.0, 1.0, 1.0], Mixture(kind="ties", majority="frequency"))
    assert total.tolist() == [5.0, 1.0, 0.0]
    assert counted.tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The density")
@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize("density", [0.4, 0.8, 1.0])
def test_mixtures_equal_pefts_on_whole_numbers_in_a_thousand_draws(
    majority: Literal["total", "frequency"], density: float
) -> None:
    import torch
    from peft.utils import merge_utils

    rng = np.random.default_rng(3)
    for _ in range(350):
        shape = (int(rng.integers(2, 4)), *rng.integers(1, 5, 2))
        # Magnitudes differ within a tensor, as pruning does not say which of equals it keeps.
        size = shape[1] * shape[2]
        whole = np.stack([rng.permutation(np.arange(1, size + 1)) for _ in range(shape[0])])
        tensors: Array = (whole * rng.choice([-1, 1], whole.shape)).reshape(shape).astype(float)
        weights = rng.choice([-2.0, 1.0, 3.0], shape[0])
        there, share = list(torch.from_numpy(tensors)), torch.from_numpy(weights)
        kinds: tuple[Literal["linear", "magnitude_prune", "ties"], ...] = (
            "linear",
            "magnitude_prune",
            "ties",
        )
        for kind in kinds:
            mixture = Mixture(kind=kind, density=density, majority=majority)
            if kind == "linear":
                expected = merge_utils.task_arithmetic(there, share)
            elif kind == "ties":
                expected = merge_utils.ties(there, share, density, majority)
            else:
                expected = merge_utils.magnitude_prune(there, share, density)
            found = lora.mix(list(tensors), weights.tolist(), mixture)
            assert found == pytest.approx(to_numpy(expected), rel=1e-15, abs=0)


def test_adapters_that_cannot_be_combined_are_refused() -> None:
    with pytest.raises(InputError, match="differ in number: 0 and 0; pass one weight for each"):
        lora.concatenate([], [])
    with pytest.raises(InputError, match="differ in number: 2 and 1"):
        lora.weighted_delta([ONE, TWO], [1.0])
    wider = replace(TWO, A=np.zeros((2, 2)), B=np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"ranks cannot be added: \d, \d; use concatenate"):
        lora.mix_factors([ONE, wider], [1.0, 1.0], Mixture())
    for odd in (replace(ONE, bias=np.zeros(2)), replace(ONE, magnitude=np.ones(2))):
        with pytest.raises(InputError, match="merge each adapter into the base instead"):
            lora.concatenate([odd], [1.0])


def test_nothing_is_pruned_by_default() -> None:
    assert lora.Mixture().density == 1.0
