from dataclasses import replace

import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Array, Factors
from tests.lora.drawing import Case, cases

PINNED = Factors(
    A=np.array([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]]),
    B=np.array([[1.0, 4.0], [-2.0, 0.5]]),
    scaling=2.0,
)
WEIGHT = np.array([[1.0, 0.0, -20.0], [1.0, 0.0, 1.0]])
X = np.array([1.0, -1.0, 2.0])


def drawn(count: int = 300) -> list[Case]:
    return [case for _, case in cases("float32", seed=40, count=count)]


def close(found: Array, expected: Array, factors: Factors) -> bool:
    """Return whether two evaluation orders in float64 agree."""
    size = np.abs(factors.scaling) * (np.abs(factors.B) @ np.abs(factors.A))
    return bool(np.all(np.abs(found - expected) <= 2.0**-40 * size.max(initial=0.0)))


def test_delta_is_scaling_times_b_times_a() -> None:
    assert lora.delta(PINNED).tolist() == [[2.0, -4.0, 24.0], [-4.0, -9.0, 3.0]]


def test_the_rank_is_the_number_of_rows_of_a() -> None:
    assert PINNED.rank == 2


def test_the_merged_weight_is_the_sum() -> None:
    merged = lora.merged_weight(WEIGHT, PINNED)
    assert merged.tolist() == [[3.0, -4.0, 4.0], [-3.0, -9.0, 4.0]]


def test_dora_gives_each_row_of_the_sum_its_magnitude() -> None:
    weight = np.array([[1.0, 4.0, -20.0], [4.0, 9.0, 0.0]])  # the sum is [3, 0, 4], [0, 0, 3]
    merged = lora.merged_weight(weight, replace(PINNED, magnitude=np.array([10.0, -0.5])))
    assert merged.tolist() == [[6.0, 0.0, 8.0], [0.0, 0.0, -0.5]]


def test_the_output_is_the_merged_weight_times_x_and_the_scaled_bias() -> None:
    assert lora.output(WEIGHT, PINNED, X).tolist() == [15.0, 14.0]
    biased = replace(PINNED, bias=np.array([1.0, -3.0]))
    assert lora.output(WEIGHT, biased, X).tolist() == [17.0, 8.0]


def test_the_output_of_rows_is_that_of_each() -> None:
    rows = np.stack([np.stack([X, 2 * X]), np.stack([-X, 0 * X])])
    found = lora.output(WEIGHT, PINNED, rows)
    assert found.tolist() == [[[15.0, 14.0], [30.0, 28.0]], [[-15.0, -14.0], [0.0, 0.0]]]


def test_fan_in_fan_out_stores_the_transpose_and_nothing_else_does() -> None:
    assert lora.storage_layout(WEIGHT, fan_in_fan_out=True).tolist() == [[1, 1], [0, 0], [-20, 1]]
    assert lora.storage_layout(WEIGHT, fan_in_fan_out=False).tolist() == WEIGHT.tolist()


def test_no_change_of_gauge_changes_the_delta() -> None:
    rng = np.random.default_rng(0)
    for case in drawn():
        f = case.factors
        gauge = np.linalg.qr(rng.standard_normal((f.rank, f.rank))).Q * 2.0 ** rng.integers(-3, 3)
        moved = replace(f, A=np.linalg.inv(gauge) @ f.A, B=f.B @ gauge)
        size = np.linalg.norm(f.B) * np.linalg.norm(f.A) * abs(f.scaling)
        assert np.abs(lora.delta(moved) - lora.delta(f)).max() <= 2.0**-40 * size


def test_delta_is_linear_in_the_scaling_in_a_and_in_b() -> None:
    for case in drawn():
        f = case.factors
        expected = -3.0 * lora.delta(f)
        assert close(lora.delta(replace(f, scaling=-3.0 * f.scaling)), expected, f)
        assert close(lora.delta(replace(f, A=-3.0 * f.A)), expected, f)
        assert close(lora.delta(replace(f, B=-3.0 * f.B)), expected, f)


def test_the_output_of_a_sum_of_inputs_is_the_sum_of_the_outputs() -> None:
    for case in drawn(100):
        if case.kind != "plain":
            continue
        f, w, x = case.factors, case.weight, case.x
        found = lora.output(w, f, x.sum(axis=0))
        assert found == pytest.approx(lora.output(w, f, x).sum(axis=0), rel=1e-9, abs=1e-9)


def test_no_delta_has_a_rank_above_r() -> None:
    for case in drawn():
        f = case.factors
        values = np.linalg.svdvals(lora.delta(f))
        assert np.all(values[f.rank :] <= 2.0**-45 * values.max(initial=0.0))


def test_dora_rows_have_exactly_the_magnitudes_as_norms() -> None:
    rng = np.random.default_rng(1)
    for case in drawn(60):
        if case.kind == "plain":
            magnitude = rng.uniform(0.1, 3.0, len(case.weight))
            merged = lora.merged_weight(case.weight, replace(case.factors, magnitude=magnitude))
            assert np.linalg.norm(merged, axis=1) == pytest.approx(magnitude, rel=1e-13)
