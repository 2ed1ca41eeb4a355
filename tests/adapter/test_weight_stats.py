"""Tensor statistics, and the delta by Gram matrices compared with the full delta in float64."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter.safetensors_file import open_path
from phi3_lora_qa.adapter.tensor_names import Part
from phi3_lora_qa.adapter.weight_stats import DeltaStats, TensorStats, measure_delta, measure_tensor
from phi3_lora_qa.errors import AdapterError
from tests.adapter.packing import Array, pack


def measured(array: Array, part: Part, folder: Path) -> TensorStats:
    path = folder / "x.safetensors"
    path.write_bytes(pack({"x": array}))
    return measure_tensor(open_path(path, error=AdapterError), "x", part)


def delta_of(a: Array, b: Array, folder: Path, scaling: float = 1.0) -> DeltaStats:
    one, other = measured(a, Part.A, folder), measured(b, Part.B, folder)
    found = measure_delta(one, other, scaling, read=lambda: (a, b))
    assert found is not None
    return found


def unread() -> tuple[Array, Array]:
    raise AssertionError("the factors were read again")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stats")


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 150), st.integers(1, 400), st.integers(1, 40), st.integers(0, 99),
    st.floats(-6, 6), st.sampled_from([0.0, 0.5, -2.0, 16.0]),
)  # fmt: skip
def test_norm_and_effective_rank_equal_those_of_the_full_delta(
    outputs: int, inputs: int, rank: int, seed: int, size: float, scaling: float
) -> None:
    import tempfile

    random = np.random.default_rng(seed)
    a = random.normal(size=(rank, inputs)).astype("f4")
    b = (random.normal(size=(outputs, rank)) * 10**size).astype("f4")
    with tempfile.TemporaryDirectory() as place:
        found = delta_of(a, b, Path(place), scaling)
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
def test_elements_that_are_not_finite_are_counted_at_any_position(part: Part, folder: Path) -> None:
    for position in (0, 1999, 3999):
        array = np.ones((1000, 4), "f4")
        array.reshape(-1)[position] = np.nan
        array.reshape(-1)[(position + 7) % 4000] = -np.inf
        found = measured(array.T.copy() if part is Part.A else array, part, folder)
        assert (found.nan, found.infinite, found.is_finite) == (1, 1, False)


def test_finite_numbers_whose_squares_overflow_are_finite(folder: Path) -> None:
    found = measured(np.full((40, 4), 1e30, "f4"), Part.B, folder)
    assert found.is_finite
    assert found.norm == pytest.approx(1e30 * 160**0.5)


def test_tiny_numbers_are_not_zero(folder: Path) -> None:
    array = np.zeros((40, 4), "f4")
    array[17, 2] = 1e-40
    assert not measured(array, Part.B, folder).is_zero
    assert measured(np.zeros((40, 4), "f4"), Part.B, folder).is_zero


def test_a_constant_fill_differs_from_one_other_number(folder: Path) -> None:
    array = np.full((100, 4), 0.5, "f4")
    assert measured(array, Part.B, folder).is_constant
    array[99, 3] = 0.25
    assert not measured(array, Part.B, folder).is_constant
    assert not measured(np.zeros((100, 4), "f4"), Part.B, folder).is_constant


def test_a_large_table_is_read_in_blocks(folder: Path) -> None:
    array = np.ones((3000, 3000), "f4")
    array[2999, 2999] = np.nan
    assert measured(array, Part.WEIGHT, folder).nan == 1
    assert measured(np.full((), 2.0, "f4"), Part.WEIGHT, folder).norm == 2.0


def test_a_very_high_rank_gets_an_upper_bound(folder: Path) -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=(300, 310)).astype("f4")
    b = random.normal(size=(310, 300)).astype("f4")
    one, other = measured(a, Part.A, folder), measured(b, Part.B, folder)
    found = measure_delta(one, other, 1.0, read=unread)
    assert found is not None
    assert found.effective_rank is None
    assert found.norm >= np.linalg.norm(b @ a)


def test_a_factor_that_is_not_finite_has_no_delta(folder: Path) -> None:
    good = measured(np.ones((4, 9), "f4"), Part.A, folder)
    bad = measured(np.full((9, 4), np.nan, "f4"), Part.B, folder)
    assert measure_delta(good, bad, 1.0, read=unread) is None


@settings(deadline=None, max_examples=40, derandomize=True, database=None)
@given(
    st.integers(-140, 120), st.integers(-140, 120), st.sampled_from(["f4", "f8"]),
    st.integers(0, 99),
)  # fmt: skip
def test_numbers_of_any_size_are_measured_precisely(
    size_a: int, size_b: int, dtype: str, seed: int
) -> None:
    """Scaling by powers of two rounds nothing but denormal numbers."""
    import tempfile

    random = np.random.default_rng(seed)
    a, b = random.normal(size=(4, 60)).astype("f4"), random.normal(size=(50, 4)).astype("f4")
    small, large = (np.ldexp(x.astype("f8"), e) for x, e in ((a, size_a), (b, size_b)))
    with tempfile.TemporaryDirectory() as place:
        found = delta_of(small.astype(dtype), large.astype(dtype), Path(place))
        plain = delta_of(a, b, Path(place))
    denormal = dtype == "f4" and min(size_a, size_b) < -120
    expected = np.ldexp(plain.norm, size_a + size_b)
    assert found.norm == pytest.approx(expected, rel=0.1 if denormal else 1e-5)
    assert found.effective_rank == pytest.approx(
        plain.effective_rank, rel=0.1 if denormal else 1e-5
    )


def test_an_ordinary_delta_is_measured_without_reading_the_factors_again(folder: Path) -> None:
    random = np.random.default_rng(0)
    a = random.uniform(-0.02, 0.02, (16, 3072)).astype("f4")
    for b in (random.normal(0, 1e-4, (3072, 16)), np.sign(random.normal(size=(3072, 16))) * 1e-4):
        one, other = measured(a, Part.A, folder), measured(b.astype("f4"), Part.B, folder)
        assert measure_delta(one, other, 2.0, read=unread) is not None


@pytest.mark.parametrize("left", [0.1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_the_remainder_of_cancelling_parts_is_precise(left: float, folder: Path) -> None:
    """The second half of the components cancels the first, except a small remainder."""
    random = np.random.default_rng(1)
    a, b = random.normal(size=(8, 400)), random.normal(size=(300, 8))
    rest = left * random.normal(size=(300, 8))
    both_a = np.concatenate([a, a]).astype("f4")
    both_b = np.concatenate([b, rest - b], axis=1).astype("f4")
    whole = both_b.astype("f8") @ both_a.astype("f8")
    squares = np.linalg.svd(whole, compute_uv=False)[:16] ** 2
    found = delta_of(both_a, both_b, folder)
    by_gram = left > 0.05
    assert found.norm == pytest.approx(np.linalg.norm(whole), rel=2e-5 if by_gram else 1e-9)
    expected = squares.sum() ** 2 / (squares**2).sum()
    assert found.effective_rank == pytest.approx(expected, rel=1e-5 if by_gram else 1e-7)
    assert not found.is_cancelled


def test_parts_that_cancel_up_to_rounding_have_no_rank(folder: Path) -> None:
    random = np.random.default_rng(2)
    basis = np.linalg.qr(random.normal(size=(4, 4)))[0]
    a = (random.normal(size=(300, 2)) @ basis[0::2]).T.astype("f4")
    b = (random.normal(size=(200, 2)) @ basis[1::2]).astype("f4")
    found = delta_of(a, b, folder)
    assert found.is_cancelled
    assert 0 < found.norm < 1e-6 * found.parts_norm
    assert found.effective_rank is None


def test_components_of_very_different_sizes_do_not_hide_the_delta(folder: Path) -> None:
    """B·M and M⁻¹·A give the same delta for any M."""
    random = np.random.default_rng(3)
    a, b = random.normal(size=(4, 60)).astype("f4"), random.normal(size=(50, 4)).astype("f4")
    gauge = np.ldexp(np.float32(1), np.array([0, 80, -80, 20])).astype("f4")
    found = delta_of(a * gauge[:, None], b / gauge, folder)
    assert found.norm == pytest.approx(np.linalg.norm(b.astype("f8") @ a), rel=1e-9)
    assert not found.is_cancelled


@pytest.mark.parametrize("part", [Part.A, Part.B])
def test_a_ramp_differs_from_a_trained_component(part: Part, folder: Path) -> None:
    random = np.random.default_rng(4)
    positions = np.arange(500.0)
    noisy = random.normal(size=(500, 3))

    def is_ramp(component: Array) -> bool:
        tall = np.column_stack([noisy, component]).astype("f4")
        return measured(tall.T.copy() if part is Part.A else tall, part, folder).is_ramp

    one_step = 1e-4 * np.sign(random.normal(size=500))
    zero, steps = 0 * positions, 1e-3 * positions
    for filled in (positions, 0.1 + zero, 5 - steps, 1e-30 * positions, 0.1 + one_step):
        assert is_ramp(filled)
    one_block = np.where(positions < 250, random.normal(size=500), 0)
    for healthy in (random.normal(size=500), zero, one_step, one_block):
        assert not is_ramp(healthy)


def test_trailing_zeros_count_if_the_rest_is_dense(folder: Path) -> None:
    dense = np.random.default_rng(5).normal(size=(8, 100)).astype("f4")
    assert measured(dense, Part.A, folder).trailing_zeros == 0
    torn = dense.copy()
    torn.reshape(-1)[617:] = 0
    assert measured(torn, Part.A, folder).trailing_zeros == 800 - 617
    assert measured(torn, Part.B, folder).trailing_zeros == 0
    torn[::2, ::3] = 0
    assert measured(torn, Part.A, folder).trailing_zeros == 0
    assert measured(np.zeros((8, 100), "f4"), Part.A, folder).trailing_zeros == 0


@pytest.mark.parametrize("part", [Part.A, Part.WEIGHT, Part.MAGNITUDE])
def test_elements_clipped_to_float16_are_counted_in_any_tensor(part: Part, folder: Path) -> None:
    array = np.ones((6, 40), "f2")
    array[2, 3] = array[5, 7] = -65504
    assert measured(array, part, folder).clipped == 2
    assert measured(array.astype("f4"), part, folder).clipped == 0


@pytest.mark.parametrize(
    ("dtype", "bits"), [("f2", 0x7D00), ("f4", 0x7F800001), ("f8", 0x7FF0000000000001)]
)
def test_a_signalling_nan_counts_without_a_warning(dtype: str, bits: int, folder: Path) -> None:
    array = np.full((20, 4), bits, dtype.replace("f", "u")).view(dtype)
    with np.errstate(all="raise"):
        assert measured(array, Part.B, folder).nan == 80


def test_a_zero_run_is_the_longest_one_in_a_dense_tensor(folder: Path) -> None:
    array = np.random.default_rng(0).normal(size=(100, 8)).astype("f4")
    assert measured(array, Part.B, folder).zero_run == (0, 0)
    array.reshape(-1)[101:201] = 0
    array.reshape(-1)[[7, 500]] = 0  # chance
    assert measured(array, Part.B, folder).zero_run == (101, 100)
    assert measured(array, Part.MAGNITUDE, folder).zero_run == (0, 0)
    array[::2] = 0  # sparse, as after pruning
    assert measured(array, Part.B, folder).zero_run == (0, 0)


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("part", [Part.A, Part.B, Part.EMBEDDING_B])
def test_equal_parts_are_counted_along_the_long_side(part: Part, parts: int, folder: Path) -> None:
    random = np.random.default_rng(0)
    block = random.normal(size=(16, 4)).astype("f4")
    tall = np.concatenate([block] * parts)
    array = np.ascontiguousarray(tall.T) if part is Part.A else tall
    assert measured(array, part, folder).repeated_parts == parts
    array[-1, -1] += 1
    assert measured(array, part, folder).repeated_parts == (0 if parts == 2 else parts)
    assert measured(np.zeros_like(array), part, folder).repeated_parts == 0
    fresh = random.normal(size=array.shape).astype("f4")
    assert measured(fresh, part, folder).repeated_parts == 0


def test_one_dominant_element_is_a_spike(folder: Path) -> None:
    array = np.random.default_rng(0).normal(size=(64, 4)).astype("f4")
    for value, expected in ((100, False), (-1000, True), (1e30, True)):
        array[3, 1] = value
        assert measured(array, Part.B, folder).has_spike is expected
    assert not measured(np.zeros((64, 4), "f4"), Part.B, folder).has_spike
