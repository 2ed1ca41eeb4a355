"""What the weights' values say: finite or not, zero or not, and how large delta = s · B·A is.

Every tensor is read once and let go. Norms and spectra come from the Gram matrices A·Aᵀ and Bᵀ·B,
which are r x r: the eigenvalues of M = AAᵀ · BᵀB are the squared singular values of B·A, so that
‖B·A‖_F² = Σσ² = tr M and Σσ⁴ = tr M². The delta itself (outputs x inputs) is never formed, and no
eigenvalue is computed: LAPACK's threads cost more than the work at these sizes.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.adapter.keys import FACTORS, Part
from phi3_lora_qa.adapter.safetensors import SafetensorsFile

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.safetensors import Array

_MAX_GRAM_RANK = 256
_THREADLESS = 1 << 18
"""OpenBLAS multiplies on one thread below this many operations.

Its threads wait by spinning: on a busy machine that made the measuring twenty times slower.
"""
_BATCH = 1 << 20
_BLOCK = 1 << 22
_LARGEST_HALF, _SMALLEST_HALF = 65504.0, 2.0**-14

Gram = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TensorMeasure:
    """One tensor's values in short.

    Attributes:
        nan: How many elements are NaN.
        infinite: How many are infinite.
        zero: Whether all are zero.
        constant: Whether all are one and the same number other than zero.
        norm: The Frobenius norm; inf where it overflows, NaN where an element is.
        gram: For factors of rank r, the r x r Gram matrix over the long side, else None.
        clipped: How many lie at the largest number of float16, for tensors stored in it.
        subnormal: Which share of those that are not zero has lost bits below float16's smallest
            normal number, for tensors stored in it.
    """

    nan: int
    infinite: int
    zero: bool
    constant: bool
    norm: float
    gram: Gram | None
    clipped: int = 0
    subnormal: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether every element is a finite number."""
        return self.nan == 0 and self.infinite == 0


@dataclass(frozen=True, kw_only=True)
class DeltaMeasure:
    """The size of one module's delta = s · B·A.

    Attributes:
        norm: Its Frobenius norm, or an upper bound of it where the rank is above 256.
        effective_rank: How many directions it uses, (Σσ²)²/Σσ⁴ over its singular values σ: 1 where
            one outweighs all others, r where all are equal; None where it was not computed.
    """

    norm: float
    effective_rank: float | None


def measure(file: SafetensorsFile, name: str, part: Part) -> TensorMeasure:
    """Read one tensor and measure it.

    Raises:
        AdapterError: Its dtype is not read, or the file became shorter.
    """
    shape = file.tensors[name].shape
    if part in FACTORS and len(shape) == 2:
        array = file.tensor(name)
        found = _measure(array, part)
        return _in_float16(found, array) if file.tensors[name].dtype == "F16" else found
    rows = max(1, _BLOCK // max(1, file.tensors[name].size // max(1, shape[0] if shape else 1)))
    count = shape[0] if shape and file.tensors[name].size else 1
    blocks = [
        _measure(file.tensor(name, slice(start, start + rows)), part)
        for start in range(0, count, rows)
    ]
    return TensorMeasure(
        nan=sum(b.nan for b in blocks),
        infinite=sum(b.infinite for b in blocks),
        zero=all(b.zero for b in blocks),
        constant=len(blocks) == 1 and blocks[0].constant,
        norm=math.hypot(*(b.norm for b in blocks)),
        gram=None,
    )


def delta(
    a: TensorMeasure, b: TensorMeasure, scaling: float, *, stacked: bool = False
) -> DeltaMeasure | None:
    """Measure s · B·A from the factors' Gram matrices; None if a factor is not finite.

    Where a factor is stored as ``stacked`` blocks of a block-diagonal matrix, its Gram matrix is
    another one, and only the bound ‖B‖·‖A‖ is given.
    """
    factor = abs(scaling)
    if not (a.finite and b.finite):
        return None
    if stacked or a.gram is None or b.gram is None or a.gram.shape != b.gram.shape:
        return DeltaMeasure(norm=factor * a.norm * b.norm, effective_rank=None)
    with np.errstate(over="ignore", invalid="ignore"):
        product = a.gram @ b.gram
        square, fourth = float(np.trace(product)), float((product * product.T).sum())
    if not math.isfinite(square):
        return DeltaMeasure(norm=factor * a.norm * b.norm, effective_rank=None)
    return DeltaMeasure(
        norm=factor * math.sqrt(max(square, 0.0)),
        effective_rank=square * square / fourth if 0 < fourth < math.inf else None,
    )


def _measure(array: "Array", part: Part) -> TensorMeasure:
    gram = _gram(array, part)
    flat = array.reshape(-1)
    square = float(np.trace(gram)) if gram is not None else _square(flat)
    nan = infinite = 0
    if not np.isfinite(square):
        nan = int(np.isnan(flat).sum())
        infinite = int(np.isinf(flat).sum())
        if not nan and not infinite and array.dtype == np.float32:
            # Finite numbers whose squares overflow float32: measure again in float64.
            return _measure(array.astype(np.float64), part)
        if not nan and not infinite:  # they overflow float64 too
            gram = None
    zero = square == 0 and not flat.any()
    head = flat[:64]
    constant = (
        flat.size >= 16
        and not zero
        and bool((head == head[0]).all())
        and bool((flat == flat[0]).all())
    )
    return TensorMeasure(
        nan=nan,
        infinite=infinite,
        zero=bool(zero),
        constant=constant,
        norm=math.sqrt(square) if square >= 0 else math.nan,
        gram=gram if nan == infinite == 0 else None,
    )


def _in_float16(found: TensorMeasure, array: "Array") -> TensorMeasure:
    sizes = np.abs(array)
    used = int((sizes > 0).sum())
    low = int(((sizes > 0) & (sizes < _SMALLEST_HALF)).sum())
    clipped = int((sizes == _LARGEST_HALF).sum())
    return replace(found, clipped=clipped, subnormal=low / used if used else 0.0)


def _square(flat: "Array") -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.dot(flat, flat))


def _gram(array: "Array", part: Part) -> Gram | None:
    if part not in FACTORS or array.ndim != 2:
        return None
    tall = array.T if part in (Part.A, Part.EMBEDDING_A) else array
    rows, rank = tall.shape
    if not 0 < rank <= _MAX_GRAM_RANK:
        return None
    height = max(1, _THREADLESS // rank**2)
    step = height * max(1, _BATCH // rank**2)
    gram = np.zeros((rank, rank))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, rows - rows % height, step):
            slab = tall[start : min(start + step, rows - rows % height)]
            blocks = slab.reshape(-1, height, rank)
            gram += np.matmul(blocks.transpose(0, 2, 1), blocks).sum(axis=0, dtype=np.float64)
        rest = tall[rows - rows % height :]
        return gram + rest.T @ rest
