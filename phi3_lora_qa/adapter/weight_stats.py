"""What the weights' values say: finite or not, zero or not, and how large delta = s · B·A is.

Every tensor is read once and let go. Norms and spectra come from the Gram matrices A·Aᵀ and Bᵀ·B,
which are r x r: the eigenvalues of M = AAᵀ · BᵀB are the squared singular values of B·A, so that
‖B·A‖_F² = Σσ² = tr M and Σσ⁴ = tr M². The delta itself (outputs x inputs) is never formed, and no
eigenvalue is computed: LAPACK's threads cost more than the work at these sizes.

Squares lose what is small in two ways. Numbers far from one are therefore divided by a power of two
first, which is exact. And where the r rank-one parts of a delta cancel, tr M is what rounding left
of much larger numbers: there, and only there, the factors are read again for a QR in float64.
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
"""A delta below this share of its rank-one parts is the rounding of factors whose product is zero.

float32 keeps 6e-8 of each part. One step of Adam at a learning rate of 1e-4 from factors that
cancel (init_lora_weights "orthogonal") leaves 1e-3 on Phi-3-mini.
"""

_SUSPECT = 1e-3
"""Below this share of the parts' squares, float32's Gram matrices are wrong by more than 2e-5."""
_TINY = 1e-12
"""The same beside ‖A‖²·‖B‖²: components of very different sizes, whose squares are lost."""
_MAX_GRAM_RANK = 256
_THREADLESS = 1 << 18
"""OpenBLAS multiplies on one thread below this many operations.

Its threads wait by spinning: on a busy machine that made the measuring twenty times slower.
"""
_DENSE = (Part.A, Part.B, Part.EMBEDDING_B)
_BATCH = 1 << 20
_BLOCK = 1 << 22
_LARGEST_HALF, _SMALLEST_HALF = 65504.0, 2.0**-14
_SQUARES_FIT = 2.0**-30, 2.0**30
"""Between these, float32 holds the squares of the numbers, and of those a millionth as large."""
_SAMPLES = 251
"""How many numbers are kept of a tensor; a prime, so that its steps reach every column."""
_LINE_SAMPLES, _SHORTEST_LINE = 64, 16
_ON_LINE = 1e-3
_SHORTEST_HOLE = 64
"""How many zeros in a row are no chance in a tensor that is dense elsewhere."""
_SPIKE = 0.995
"""The square root of 0.99: what one element has of the norm if it outweighs the others tenfold."""
_MOST_PARTS, _SHORTEST_PART = 8, 16
_STRAY = 100
"""One number in so many may be zero in a tensor that counts as dense."""

Gram = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TensorStats:
    """One tensor's values in short.

    Attributes:
        size: How many elements there are.
        nan: How many of them are NaN.
        infinite: How many are infinite.
        lowest: The smallest element; NaN if one is.
        highest: The largest element; NaN if one is.
        norm: The Frobenius norm; inf where it overflows, NaN where an element is.
        samples: Some of the elements, the same places in all tensors of one shape.
        gram: For factors of rank r, the r x r Gram matrix over the long side of the tensor divided
            by 2**exponent, else None.
        exponent: See ``gram``.
        on_line: For factors, whether the numbers of one of the r components change by one step
            from place to place, as constant fill and a ramp do.
        tail: For a linear module's A, how many zeros end it, if (nearly) no other number is zero.
        hole: For a linear module's factors, where a long run of zeros begins in the file's order,
            and how long it is, if (nearly) no other number is zero; else (0, 0).
        repeats: For a linear module's factors and an embedding's B, of how many equal parts (of the
            long side) the second is a copy of the first; 0 if there are none.
        clipped: How many lie at the largest number of float16, for tensors stored in it.
        subnormal: Which share of those that are not zero has lost bits below float16's smallest
            normal number, for factors stored in it.
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
    on_line: bool = False
    tail: int = 0
    hole: tuple[int, int] = (0, 0)
    repeats: int = 0
    clipped: int = 0
    subnormal: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether every element is a finite number."""
        return self.nan == 0 and self.infinite == 0

    @property
    def zero(self) -> bool:
        """Whether all are zero."""
        return self.lowest == self.highest == 0

    @property
    def constant(self) -> bool:
        """Whether all are one and the same number other than zero, and many enough to tell."""
        return self.lowest == self.highest != 0 and self.size >= 16

    @property
    def spiked(self) -> bool:
        """Whether one element holds nearly all of the norm."""
        return max(-self.lowest, self.highest) > _SPIKE * self.norm > 0

    @property
    def rms(self) -> float:
        """The root of the mean square of the elements."""
        return self.norm / math.sqrt(self.size) if self.size else 0.0


@dataclass(frozen=True, kw_only=True)
class DeltaStats:
    """The size of one module's delta = s · B·A.

    Attributes:
        norm: Its Frobenius norm, or an upper bound of it where the rank is above 256.
        parts: The norm that its r rank-one parts s · bᵢ·aᵢ would have together if they were
            orthogonal, sqrt(Σ ‖s · bᵢ·aᵢ‖²); 0 where it was not computed.
        effective_rank: How many directions it uses, (Σσ²)²/Σσ⁴ over its singular values σ: 1 where
            one outweighs all others, r where all are equal; None where it was not computed.
    """

    norm: float
    parts: float
    effective_rank: float | None

    @property
    def cancelled(self) -> bool:
        """Whether the parts are there and their sum is zero up to rounding."""
        return self.norm <= CANCELLED * self.parts and self.parts > 0


def measure(file: SafetensorsFile, name: str, part: Part) -> TensorStats:
    """Read one tensor and measure it.

    Raises:
        AdapterError: Its dtype is not read, or the file became shorter.
    """
    info = file.tensors[name]
    half = info.dtype == "F16"
    if part in FACTORS and len(info.shape) == 2:
        return _measure(file.tensor(name), part, half=half)
    count = info.shape[0] if info.shape and info.size else 1
    rows = max(1, _BLOCK // max(1, info.size // count))
    blocks = (
        _measure(file.tensor(name, slice(start, start + rows)), part, half=half)
        for start in range(0, count, rows)
    )
    return reduce(_joined, blocks)


def delta(
    a: TensorStats,
    b: TensorStats,
    scaling: float,
    *,
    read: "Callable[[], tuple[Array, Array]]",
    stacked: bool = False,
) -> DeltaStats | None:
    """Measure s · B·A from the factors' Gram matrices; None if a factor is not finite.

    Args:
        a: The measure of A.
        b: The measure of B.
        scaling: The factor s.
        read: Returns A (r, inputs) and B (outputs, r) again, where squares cannot tell.
        stacked: Whether a factor is stored as the blocks of a block-diagonal matrix: its Gram
            matrix is another one, and only the bound ‖B‖·‖A‖ is given.
    """
    factor = abs(scaling)
    if not (a.finite and b.finite):
        return None
    if stacked or a.gram is None or b.gram is None or a.gram.shape != b.gram.shape:
        return DeltaStats(norm=factor * a.norm * b.norm, parts=0.0, effective_rank=None)
    gram_a, gram_b = a.gram, b.gram
    square, fourth, parts = _moments(gram_a @ gram_b, gram_a, gram_b)
    if square < _SUSPECT * parts or square < _TINY * np.trace(gram_a) * np.trace(gram_b):
        square, fourth, parts = _exactly(*read(), a.exponent, b.exponent)
    exponent = a.exponent + b.exponent
    noise = square <= CANCELLED**2 * parts  # which has no directions
    return DeltaStats(
        norm=factor * _shifted(math.sqrt(max(square, 0.0)), exponent),
        parts=factor * _shifted(math.sqrt(parts), exponent),
        effective_rank=None if noise or not fourth > 0 else square * square / fourth,
    )


def _moments(product: Gram, gram_a: Gram, gram_b: Gram) -> tuple[float, float, float]:
    """Return Σσ², Σσ⁴ and the sum of the parts' squares."""
    parts = float(gram_a.diagonal() @ gram_b.diagonal())
    return float(np.trace(product)), float((product * product.T).sum()), parts


def _exactly(
    a: "Array", b: "Array", exponent_a: int, exponent_b: int
) -> tuple[float, float, float]:
    """As `_moments`, by thin QR in float64: B·A = Q_B · (R_B · R_Aᵀ) · Q_Aᵀ.

    Householder's QR is backward stable column by column (Higham 2002, Accuracy and Stability of
    Numerical Algorithms, theorem 19.4), so that each part is as exact as its own size allows.
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


def _measure(array: "Array", part: Part, *, half: bool) -> TensorStats:
    flat = array.reshape(-1)
    if not flat.size:
        return TensorStats(
            size=0, nan=0, infinite=0, lowest=0.0, highest=0.0, norm=0.0, samples=np.empty(0)
        )
    places = np.arange(min(_SAMPLES, flat.size)) * flat.size // min(_SAMPLES, flat.size)
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN, and no warning
        lowest, highest = float(flat.min()), float(flat.max())
        samples = flat[places].astype(np.float64)
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
    even = np.ldexp(array, -exponent) if exponent else array
    gram = _gram(even, part)
    square = float(np.trace(gram)) if gram is not None else _square(even.reshape(-1))
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
        on_line=_on_line(_tall(even, part)) if part in FACTORS and array.ndim == 2 else False,
        tail=_tail(flat) if part is Part.A else 0,
        hole=_hole(flat) if part in (Part.A, Part.B) else (0, 0),
        repeats=_repeats(_tall(array, part)) if part in _DENSE and array.ndim == 2 else 0,
        clipped=_count_at(flat, _LARGEST_HALF) if half and largest == _LARGEST_HALF else 0,
        subnormal=_subnormal(flat) if half and part in FACTORS else 0.0,
    )


def _joined(one: TensorStats, other: TensorStats) -> TensorStats:
    """Measure two blocks of rows as one tensor."""
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


def _on_line(tall: "Array") -> bool:
    """Whether some component is, at evenly spaced places, a straight line but for a thousandth."""
    rows = len(tall)
    if rows < _SHORTEST_LINE or not tall.shape[1]:
        return False
    places = np.linspace(0, rows - 1, min(rows, _LINE_SAMPLES)).astype(int)
    sample = tall[places].astype(np.float64)
    at = places - places.mean()
    centred = sample - sample.mean(axis=0)
    rest = centred - np.outer(at, (at @ centred) / (at @ at))
    return bool(((rest**2).sum(axis=0) < _ON_LINE**2 * (sample**2).sum(axis=0)).any())


def _tail(flat: "Array") -> int:
    if flat[-1] != 0 or not flat.any():
        return 0
    used = np.flatnonzero(flat)
    tail = flat.size - 1 - int(used[-1])
    return tail if flat.size - tail - used.size <= flat.size // _STRAY else 0


def _hole(flat: "Array") -> tuple[int, int]:
    zeros = flat.size - int(np.count_nonzero(flat))
    if not _SHORTEST_HOLE <= zeros < flat.size:
        return 0, 0
    edges = np.concatenate([[-1], np.flatnonzero(flat), [flat.size]])
    runs = np.diff(edges) - 1
    at = int(runs.argmax())
    length = int(runs[at])
    dense = zeros - length <= flat.size // _STRAY
    return (int(edges[at]) + 1, length) if dense and length >= _SHORTEST_HOLE else (0, 0)


def _repeats(tall: "Array") -> int:
    """Return how many equal parts there are, if the first two hold the same and are not zero."""
    for count in range(2, _MOST_PARTS + 1):
        step, rest = divmod(len(tall), count)
        if rest or step < _SHORTEST_PART or not tall.shape[1]:
            continue
        first, second = tall[:step], tall[step : 2 * step]
        middle = step // 2  # tells most apart without a look at all
        alike = np.array_equal(first[middle], second[middle]) and np.array_equal(first, second)
        if alike and first.any():
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
