"""The Gram matrices against numpy's singular values of the whole delta, in float64."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter.keys import Part
from phi3_lora_qa.adapter.measure import TensorMeasure, delta, measure
from phi3_lora_qa.adapter.safetensors import open_path
from phi3_lora_qa.errors import AdapterError
from tests.adapter.builders import Array, pack


def measured(array: Array, part: Part, folder: Path) -> TensorMeasure:
    path = folder / "x.safetensors"
    path.write_bytes(pack({"x": array}))
    return measure(open_path(path, error=AdapterError), "x", part)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measure")


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 150), st.integers(1, 400), st.integers(1, 40), st.integers(0, 99),
    st.floats(-6, 6), st.sampled_from([0.0, 0.5, -2.0, 16.0]),
)  # fmt: skip
def test_norm_and_effective_rank_are_those_of_the_whole_delta(
    outputs: int, inputs: int, rank: int, seed: int, size: float, scaling: float
) -> None:
    import tempfile

    random = np.random.default_rng(seed)
    a = random.normal(size=(rank, inputs)).astype("f4")
    b = (random.normal(size=(outputs, rank)) * 10**size).astype("f4")
    with tempfile.TemporaryDirectory() as place:
        found = delta(measured(a, Part.A, Path(place)), measured(b, Part.B, Path(place)), scaling)
    assert found is not None
    whole = scaling * (b.astype("f8") @ a.astype("f8"))
    # Two inner products in float32 over at most 2^18 / r^2 terms, summed in float64.
    terms = max(1, (1 << 18) // rank**2) + 2
    bound = 2.0 * min(terms, max(inputs, outputs)) * float(np.finfo("f4").eps)
    assert found.norm == pytest.approx(np.linalg.norm(whole), rel=max(bound, 1e-5))
    squares = np.linalg.svd(whole, compute_uv=False) ** 2
    if squares.sum() > 0:
        expected = squares.sum() ** 2 / (squares**2).sum()
        assert found.effective_rank == pytest.approx(expected, rel=4 * max(bound, 1e-5))


@pytest.mark.parametrize("part", [Part.A, Part.B, Part.WEIGHT])
def test_what_is_not_finite_is_counted_wherever_it_is(part: Part, folder: Path) -> None:
    for place in (0, 1999, 3999):
        array = np.ones((1000, 4), "f4")
        array.reshape(-1)[place] = np.nan
        array.reshape(-1)[(place + 7) % 4000] = -np.inf
        found = measured(array.T.copy() if part is Part.A else array, part, folder)
        assert (found.nan, found.infinite, found.finite) == (1, 1, False)


def test_finite_numbers_whose_squares_overflow_are_finite(folder: Path) -> None:
    found = measured(np.full((40, 4), 1e30, "f4"), Part.B, folder)
    assert found.finite
    assert found.norm == pytest.approx(1e30 * 160**0.5)


def test_tiny_numbers_are_not_taken_for_zero(folder: Path) -> None:
    array = np.zeros((40, 4), "f4")
    array[17, 2] = 1e-40
    assert not measured(array, Part.B, folder).zero
    assert measured(np.zeros((40, 4), "f4"), Part.B, folder).zero


def test_constant_fill_is_told_from_numbers_that_begin_alike(folder: Path) -> None:
    array = np.full((100, 4), 0.5, "f4")
    assert measured(array, Part.B, folder).constant
    array[99, 3] = 0.25
    assert not measured(array, Part.B, folder).constant
    assert not measured(np.zeros((100, 4), "f4"), Part.B, folder).constant


def test_a_large_table_is_measured_in_blocks(folder: Path) -> None:
    array = np.ones((3000, 3000), "f4")
    array[2999, 2999] = np.nan
    assert measured(array, Part.WEIGHT, folder).nan == 1
    assert measured(np.full((), 2.0, "f4"), Part.WEIGHT, folder).norm == 2.0


def test_a_very_high_rank_gets_an_upper_bound(folder: Path) -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=(300, 310)).astype("f4")
    b = random.normal(size=(310, 300)).astype("f4")
    found = delta(measured(a, Part.A, folder), measured(b, Part.B, folder), 1.0)
    assert found is not None
    assert found.effective_rank is None
    assert found.norm >= np.linalg.norm(b @ a)


def test_a_factor_that_is_not_finite_has_no_delta(folder: Path) -> None:
    good = measured(np.ones((4, 9), "f4"), Part.A, folder)
    bad = measured(np.full((9, 4), np.nan, "f4"), Part.B, folder)
    assert delta(good, bad, 1.0) is None
