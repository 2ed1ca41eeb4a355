"""Statistics of weight tensors, and the norm and effective rank of delta = s · B·A.

Every tensor is read once and then released. Norms and spectra are computed from the Gram matrices
A·Aᵀ and Bᵀ·B, which are r x r: the eigenvalues of M = AAᵀ · BᵀB are the squared singular values of
B·A, so ‖B·A‖_F² = Σσ² = tr M and Σσ⁴ = tr M². The delta itself (outputs x inputs) is never formed,
and no eigenvalue is computed: at these sizes LAPACK's threads cost more than the work.

Squares lose precision in two cases. Numbers far from one are first divided by a power of two, which
is exact. And if the r rank-one parts of a delta cancel, tr M is the rounding error of much larger
numbers: only then the factors are read again, for a QR decomposition in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile
from phi3_lora_qa.adapter.tensor_names import FACTORS, Part

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.safetensors_file import Array

CANCELLED = 1e-6
"""A delta below this share of its rank-one parts is rounding error: the product is zero.

float32 has a relative precision of 6e-8 per part. On Phi-3-mini, one Adam step with a learning rate
of 1e-4 from factors that cancel (init_lora_weights "orthogonal") gives 1e-3.
"""

_SUSPECT = 1e-3
"""Below this share of the parts' squares, float32 Gram matrices have errors above 2e-5."""
_TINY = 1e-12
"""The same relative to ‖A‖²·‖B‖²: components of very different sizes, whose squares are lost."""
_MAX_GRAM_RANK = 256
_THREADLESS = 1 << 18
"""OpenBLAS uses one thread below this number of operations.

Its threads wait by spinning, which made this code twenty times slower on a busy machine.
"""
_DENSE = (Part.A, Part.B, Part.EMBEDDING_B)
_BATCH = 1 << 20
_BLOCK = 1 << 22
_LARGEST_HALF, _SMALLEST_HALF = 65504.0, 2.0**-14
_SQUARES_FIT = 2.0**-30, 2.0**30
"""In this range float32 can represent the squares, also of numbers a millionth as large."""
_SAMPLES = 251
"""Samples per tensor; a prime, so that the steps reach every column."""
_RAMP_SAMPLES, _SHORTEST_RAMP = 64, 16
_RAMP_TOLERANCE = 1e-3
_SHORTEST_ZERO_RUN = 64
"""Consecutive zeros that cannot be chance in an otherwise dense tensor."""
_SPIKE = 0.995
"""The square root of 0.99: the share of the norm of an element ten times the rest together."""
_MAX_PARTS, _SHORTEST_PART = 8, 16
_STRAY_ZEROS = 100
"""A dense tensor may have one zero in this many numbers."""

Gram = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TensorStats:
    """Statistics of one tensor.

    Attributes:
        size: The number of elements.
        nan: The number of NaN elements.
        infinite: The number of infinite elements.
        lowest: The smallest element; NaN if any element is.
        highest: The largest element; NaN if any element is.
        norm: The Frobenius norm; inf if it overflows, NaN if any element is.
        samples: A sample of the elements, at the same positions for all tensors of one shape.
        gram: For factors of rank r, the r x r Gram matrix over the long side of the tensor divided
            by 2**exponent, else None.
        exponent: See ``gram``.
        is_ramp: For factors, whether one of the r components changes in equal steps, as a constant
            fill or a ramp does.
        trailing_zeros: For the A of a linear module, the number of zeros at its end, if (nearly)
            all other elements are nonzero.
        zero_run: For the factors of a linear module, (start, length) of a long run of zeros in file
            order, if (nearly) all other elements are nonzero; else (0, 0).
        repeated_parts: For the factors of a linear module and the B of an embedding, the number of
            equal parts (along the long side) of which the second is a copy of the first; else 0.
        clipped: The number of elements at float16's largest number, for tensors stored in float16.
        subnormal: The share of nonzero elements below float16's smallest normal number, which have
            lost bits, for factors stored in float16.
    """

    size: int
    nan: int
    infinite: int
    lowest: float
    highest: float
    norm: float
    samples: NDArray[np.float64]
    gram: Gram | None = None
    exponent: int = 0
    is_ramp: bool = False
    trailing_zeros: int = 0
    zero_run: tuple[int, int] = (0, 0)
    repeated_parts: int = 0
    clipped: int = 0
    subnormal: float = 0.0

    @property
    def is_finite(self) -> bool:
        """Whether all elements are finite."""
        return self.nan == 0 and self.infinite == 0

    @property
    def is_zero(self) -> bool:
        """Whether all elements are zero."""
        return self.lowest == self.highest == 0

    @property
    def is_constant(self) -> bool:
        """Whether all elements, at least 16, are the same nonzero number."""
        return self.lowest == self.highest != 0 and self.size >= 16

    @property
    def has_spike(self) -> bool:
        """Whether one element accounts for nearly all of the norm."""
        return max(-self.lowest, self.highest) > _SPIKE * self.norm > 0

    @property
    def rms(self) -> float:
        """The root mean square of the elements."""
        return self.norm / math.sqrt(self.size) if self.size else 0.0


@dataclass(frozen=True, kw_only=True)
class DeltaStats:
    """The size of one module's delta = s · B·A.

    Attributes:
        norm: The Frobenius norm, or an upper bound of it if the rank is above 256.
        parts_norm: sqrt(Σ ‖s · bᵢ·aᵢ‖²), the norm if the r rank-one parts s · bᵢ·aᵢ were
            orthogonal; 0 if it was not computed.
        effective_rank: The participation ratio (Σσ²)²/Σσ⁴ of the singular values σ: 1 if one
            dominates, r if all are equal; None if it was not computed.
    """

    norm: float
    parts_norm: float
    effective_rank: float | None

    @property
    def is_cancelled(self) -> bool:
        """Whether the parts are nonzero and their sum is zero up to rounding."""
        return self.norm <= CANCELLED * self.parts_norm and self.parts_norm > 0


def measure_tensor(file: SafetensorsFile, name: str, part: Part) -> TensorStats:
    """Read one tensor and compute its statistics.

    Raises:
        AdapterError: The dtype is not supported, or the file became shorter.
    """
    info = file.tensors[name]
    half = info.dtype == "F16"
    if part in FACTORS and len(info.shape) == 2:
        return _stats(file.tensor(name), part, is_half=half)
    count = info.shape[0] if info.shape and info.size else 1
    rows = max(1, _BLOCK // max(1, info.size // count))
    blocks = (
        _stats(file.tensor(name, slice(start, start + rows)), part, is_half=half)
        for start in range(0, count, rows)
    )
    return reduce(_merged, blocks)


def measure_delta(
    a: TensorStats,
    b: TensorStats,
    scaling: float,
    *,
    read: "Callable[[], tuple[Array, Array]]",
    stacked: bool = False,
) -> DeltaStats | None:
    """Measure s · B·A from the factors' Gram matrices; None if a factor is not finite.

    Args:
        a: The statistics of A.
        b: The statistics of B.
        scaling: The factor s.
        read: Returns A (r, inputs) and B (outputs, r); called if the Gram matrices lack precision.
        stacked: Whether a factor is stored as the blocks of a block-diagonal matrix: its Gram
            matrix is then not that of the factor, and only the bound ‖B‖·‖A‖ is returned.
    """
    factor = abs(scaling)
    if not (a.is_finite and b.is_finite):
        return None
    if stacked or a.gram is None or b.gram is None or a.gram.shape != b.gram.shape:
        return DeltaStats(norm=factor * a.norm * b.norm, parts_norm=0.0, effective_rank=None)
    gram_a, gram_b = a.gram, b.gram
    square, fourth, parts_square = _moments(gram_a @ gram_b, gram_a, gram_b)
    if square < _SUSPECT * parts_square or square < _TINY * np.trace(gram_a) * np.trace(gram_b):
        square, fourth, parts_square = _moments_by_qr(*read(), a.exponent, b.exponent)
    exponent = a.exponent + b.exponent
    is_noise = square <= CANCELLED**2 * parts_square  # rounding error has no rank
    return DeltaStats(
        norm=factor * _shifted(math.sqrt(max(square, 0.0)), exponent),
        parts_norm=factor * _shifted(math.sqrt(parts_square), exponent),
        effective_rank=None if is_noise or not fourth > 0 else square * square / fourth,
    )


def _moments(product: Gram, gram_a: Gram, gram_b: Gram) -> tuple[float, float, float]:
    """Return Σσ², Σσ⁴ and the sum of the squared norms of the rank-one parts."""
    parts = float(gram_a.diagonal() @ gram_b.diagonal())
    return float(np.trace(product)), float((product * product.T).sum()), parts


def _moments_by_qr(
    a: "Array", b: "Array", exponent_a: int, exponent_b: int
) -> tuple[float, float, float]:
    """Compute `_moments` by thin QR in float64: B·A = Q_B · (R_B · R_Aᵀ) · Q_Aᵀ.

    Householder QR is columnwise backward stable (Higham 2002, Accuracy and Stability of Numerical
    Algorithms, theorem 19.4), so the error of each part is relative to its own size.
    """
    r_a, r_b = (
        np.asarray(np.linalg.qr(np.ldexp(tall.astype(np.float64), -exponent), mode="r"))
        for tall, exponent in ((a.T, exponent_a), (b, exponent_b))
    )
    core = r_b @ r_a.T
    inner = core.T @ core
    parts = float((r_a**2).sum(axis=0) @ (r_b**2).sum(axis=0))
    return float(np.trace(inner)), float((inner * inner).sum()), parts


def _shifted(number: float, exponent: int) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(number, exponent))


def _stats(array: "Array", part: Part, *, is_half: bool) -> TensorStats:
    flat = array.reshape(-1)
    if not flat.size:
        return TensorStats(
            size=0, nan=0, infinite=0, lowest=0.0, highest=0.0, norm=0.0, samples=np.empty(0)
        )
    positions = np.arange(min(_SAMPLES, flat.size)) * flat.size // min(_SAMPLES, flat.size)
    with np.errstate(invalid="ignore"):  # a signalling NaN would warn
        lowest, highest = float(flat.min()), float(flat.max())
        samples = flat[positions].astype(np.float64)
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        nan = int(np.isnan(flat).sum())
        return TensorStats(
            size=flat.size,
            nan=nan,
            infinite=int(np.isinf(flat).sum()),
            lowest=lowest,
            highest=highest,
            norm=math.nan if nan else math.inf,
            samples=samples,
        )
    largest = max(-lowest, highest)
    fits = largest == 0 or _SQUARES_FIT[0] < largest < _SQUARES_FIT[1]
    exponent = 0 if fits else math.frexp(largest)[1]
    scaled = np.ldexp(array, -exponent) if exponent else array
    gram = _gram(scaled, part)
    square = float(np.trace(gram)) if gram is not None else _square(scaled.reshape(-1))
    return TensorStats(
        size=flat.size,
        nan=0,
        infinite=0,
        lowest=lowest,
        highest=highest,
        norm=_shifted(math.sqrt(square), exponent),
        samples=samples,
        gram=gram,
        exponent=exponent,
        is_ramp=_is_ramp(_tall(scaled, part)) if part in FACTORS and array.ndim == 2 else False,
        trailing_zeros=_trailing_zeros(flat) if part is Part.A else 0,
        zero_run=_zero_run(flat) if part in (Part.A, Part.B) else (0, 0),
        repeated_parts=_repeated_parts(_tall(array, part))
        if part in _DENSE and array.ndim == 2
        else 0,
        clipped=_count_at(flat, _LARGEST_HALF) if is_half and largest == _LARGEST_HALF else 0,
        subnormal=_subnormal(flat) if is_half and part in FACTORS else 0.0,
    )


def _merged(one: TensorStats, other: TensorStats) -> TensorStats:
    """Merge the statistics of two blocks of rows of one tensor."""
    return TensorStats(
        size=one.size + other.size,
        nan=one.nan + other.nan,
        infinite=one.infinite + other.infinite,
        lowest=float(np.minimum(one.lowest, other.lowest)),
        highest=float(np.maximum(one.highest, other.highest)),
        norm=math.hypot(one.norm, other.norm) if one.nan == other.nan == 0 else math.nan,
        samples=np.concatenate([one.samples, other.samples]),
        clipped=one.clipped + other.clipped,
    )


def _subnormal(flat: "Array") -> float:
    sizes = np.abs(flat)
    used = int((sizes > 0).sum())
    return int(((sizes > 0) & (sizes < _SMALLEST_HALF)).sum()) / used if used else 0.0


def _count_at(flat: "Array", size: float) -> int:
    return int((np.abs(flat) == size).sum())


def _square(flat: "Array") -> float:
    return float(np.dot(flat, flat))


def _tall(array: "Array", part: Part) -> "Array":
    """Return a factor with its r components as columns."""
    return array.T if part in (Part.A, Part.EMBEDDING_A) else array


def _is_ramp(tall: "Array") -> bool:
    """Whether some component is a straight line, at evenly spaced samples, within a thousandth."""
    rows = len(tall)
    if rows < _SHORTEST_RAMP or not tall.shape[1]:
        return False
    positions = np.linspace(0, rows - 1, min(rows, _RAMP_SAMPLES)).astype(int)
    sample = tall[positions].astype(np.float64)
    offsets = positions - positions.mean()
    centred = sample - sample.mean(axis=0)
    residual = centred - np.outer(offsets, (offsets @ centred) / (offsets @ offsets))
    return bool(((residual**2).sum(axis=0) < _RAMP_TOLERANCE**2 * (sample**2).sum(axis=0)).any())


def _trailing_zeros(flat: "Array") -> int:
    if flat[-1] != 0 or not flat.any():
        return 0
    nonzero = np.flatnonzero(flat)
    trailing = flat.size - 1 - int(nonzero[-1])
    other_zeros = flat.size - trailing - nonzero.size
    return trailing if other_zeros <= flat.size // _STRAY_ZEROS else 0


def _zero_run(flat: "Array") -> tuple[int, int]:
    zeros = flat.size - int(np.count_nonzero(flat))
    if not _SHORTEST_ZERO_RUN <= zeros < flat.size:
        return 0, 0
    edges = np.concatenate([[-1], np.flatnonzero(flat), [flat.size]])
    runs = np.diff(edges) - 1
    longest = int(runs.argmax())
    length = int(runs[longest])
    is_dense = zeros - length <= flat.size // _STRAY_ZEROS
    if not is_dense or length < _SHORTEST_ZERO_RUN:
        return 0, 0
    return int(edges[longest]) + 1, length


def _repeated_parts(tall: "Array") -> int:
    """Return the number of equal parts if the first two are equal and nonzero, else 0."""
    for count in range(2, _MAX_PARTS + 1):
        step, rest = divmod(len(tall), count)
        if rest or step < _SHORTEST_PART or not tall.shape[1]:
            continue
        first, second = tall[:step], tall[step : 2 * step]
        middle = step // 2  # one row is enough to tell most parts apart
        are_equal = np.array_equal(first[middle], second[middle]) and np.array_equal(first, second)
        if are_equal and first.any():
            return count
    return 0


def _gram(array: "Array", part: Part) -> Gram | None:
    if part not in FACTORS or array.ndim != 2:
        return None
    tall = _tall(array, part)
    rows, rank = tall.shape
    if not 0 < rank <= _MAX_GRAM_RANK:
        return None
    height = max(1, _THREADLESS // rank**2)
    step = height * max(1, _BATCH // rank**2)
    gram = np.zeros((rank, rank))
    for start in range(0, rows - rows % height, step):
        slab = tall[start : min(start + step, rows - rows % height)]
        blocks = slab.reshape(-1, height, rank)
        gram += np.matmul(blocks.transpose(0, 2, 1), blocks).sum(axis=0, dtype=np.float64)
    rest = tall[rows - rows % height :]
    return gram + rest.T @ rest
