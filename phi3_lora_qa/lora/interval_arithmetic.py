"""Floating-point arithmetic on pairs of an exact value and a bound on the error of a computed one.

Standard model (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. 2002, section 2.2):
fl(a op b) = (a op b)·(1 + d) + e with |d| <= u, the unit roundoff, and |e| at most a tiny absolute
amount where the result underflows. An inner product of n terms that are not zero, summed in any
order, errs by at most gamma_n · |x|ᵀ|y|, gamma_n = n·u / (1 - n·u) (section 3.1, eq. 3.5).

`Arithmetic` replays a computation step by step on pairs (value, error), as in running error
analysis (section 3.3), except that the values are exact. Every bound is therefore an a priori
bound, and counts only the roundings that happen: none for a factor that is a power of two, none for
a product with zero, one where a low-precision result is stored after a sum in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.lora.factors import Array
from phi3_lora_qa.lora.float_formats import FORMATS, Format, format_of, gamma, round_to


@dataclass(frozen=True, kw_only=True)
class Approximation:
    """Exact values, and a bound on |computed - value| for each of them.

    Attributes:
        value: float64.
        error: float64 of the same shape, infinite where no bound exists.

    Example:
        >>> import numpy as np
        >>> Approximation(value=np.array([-2.0]), error=np.array([0.5])).max_abs.tolist()
        [2.5]
    """

    value: Array
    error: Array

    @property
    def max_abs(self) -> Array:
        """The largest magnitude that the computed value may have."""
        found: Array = np.abs(self.value) + self.error
        return found

    def transposed(self) -> "Approximation":
        """Return the transpose."""
        return Approximation(value=self.value.T, error=self.error.T)

    def column(self) -> "Approximation":
        """Return a vector (n,) as a column (n, 1)."""
        return Approximation(value=self.value[:, None], error=self.error[:, None])


def exact(values: Array) -> Approximation:
    """Return values that carry no error.

    Args:
        values: float64, of any shape.

    Returns:
        An approximation with error 0.

    Example:
        >>> import numpy as np
        >>> exact(np.ones(2)).error.tolist()
        [0.0, 0.0]
    """
    return Approximation(value=values, error=np.broadcast_to(0.0, values.shape))


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """The arithmetic in which a layer computes.

    Attributes:
        dtype: The dtype in which results are stored; the lower one where base and adapter differ.
        accumulate: The dtype in which inner products, sums and norms are accumulated, before they
            are stored once at the end. Empty for the default: float32 for float16 and bfloat16
            (torch on a CPU, and tensor cores), the dtype itself otherwise. The dtype's own name is
            the worst case.
        mixed: Whether base and adapter have different dtypes, so that a delta may be rounded one
            way when it is added and another way when it is subtracted.

    Example:
        >>> import numpy as np
        >>> half = Arithmetic(dtype="float16")
        >>> half.accumulate, half.add(exact(np.ones(1)), exact(np.ones(1))).value.tolist()
        ('float32', [2.0])
    """

    dtype: str
    accumulate: str = ""
    mixed: bool = False

    def __post_init__(self) -> None:
        default = "float32" if self.dtype in ("float16", "bfloat16") else self.dtype
        object.__setattr__(self, "accumulate", self.accumulate or default)
        format_of(self.dtype), format_of(self.accumulate)

    @np.errstate(all="ignore")
    def cast(self, values: Array) -> Approximation:
        """Return values that are first cast to the dtype, which may round them."""
        return _bounded(values, np.abs(round_to(values, self.dtype) - values))

    def rounding(self, max_abs: Array) -> Array:
        """Bound |fl(z) - z| for |z| <= max_abs: u·max_abs and underflow; infinite beyond the range.

        The reference is computed in float64 and may itself be 2**-53 off; this is included.
        """
        return _rounding(max_abs, self.dtype)

    @np.errstate(all="ignore")
    def add(self, a: Approximation, b: Approximation) -> Approximation:
        """Return a + b, rounded unless one of them is zero."""
        error = a.error + b.error
        value = a.value + b.value
        both = (a.max_abs > 0) & (b.max_abs > 0)
        return _bounded(value, error + np.where(both, self.rounding(np.abs(value) + error), 0.0))

    def subtract(self, a: Approximation, b: Approximation) -> Approximation:
        """Return a - b."""
        return self.add(a, Approximation(value=-b.value, error=b.error))

    @np.errstate(all="ignore")
    def scale(self, a: Approximation, factor: float) -> Approximation:
        """Return factor · a.

        The factor may be rounded to the dtype; a power of two rounds nothing.
        """
        form = format_of(self.dtype)
        inexact = abs(float(round_to(np.asarray(factor), self.dtype)) - factor)
        value = factor * a.value
        error = abs(factor) * a.error
        if inexact:
            error = error + inexact * a.max_abs
        max_abs = np.abs(value) + error
        if abs(np.frexp(factor)[0]) != 0.5:
            error = error + self.rounding(max_abs)
        elif abs(factor) < 1:
            error = error + _where_nonzero(max_abs, form.underflow_error)
        return _bounded(value, _infinite_on_overflow(form, max_abs, error))

    @np.errstate(all="ignore")
    def times(self, a: Approximation, b: Approximation) -> Approximation:
        """Return a · b, elementwise."""
        error = np.abs(a.value) * b.error + a.error * b.max_abs
        value = a.value * b.value
        return _bounded(value, error + self.rounding(np.abs(value) + error))

    @np.errstate(all="ignore")
    def divide(self, a: Approximation, b: Approximation) -> Approximation:
        """Return a / b, elementwise; there is no bound where b may be zero.

        With â, b̂ the computed ones, â/b̂ - a/b = ((â - a) - (a/b)·(b̂ - b)) / b̂.
        """
        value = a.value / b.value
        least = np.abs(b.value) - b.error
        error = (a.error + np.abs(value) * b.error) / np.where(least > 0, least, 0.0)
        return _bounded(value, error + self.rounding(np.abs(value) + error))

    @np.errstate(all="ignore")
    def product(self, a: Approximation, b: Approximation) -> Approximation:
        """Return the matrix product of a (m, n) and b (n, p), accumulated and then stored.

        Terms with an exact zero do not round, so gamma counts only the others.
        """
        left, right = a.max_abs, b.max_abs
        value = a.value @ b.value
        max_abs = left @ right
        terms = _count_nonzero_terms(left, right)
        own = (gamma(terms, self.accumulate) + gamma(terms, "float64")) * max_abs
        form = format_of(self.accumulate)
        lost = own + form.underflow_error * terms
        if form.flushes_subnormals:
            # Inputs below the smallest normal number may be treated as zero, too.
            lost = lost + form.underflow_error * left.sum(axis=1)[:, None]
            lost = lost + form.underflow_error * right.sum(axis=0)
        error = _infinite_on_overflow(form, max_abs + own, _where_nonzero(max_abs, lost))
        if a.error.any():
            error = error + a.error @ right
        if b.error.any():
            error = error + np.abs(a.value) @ b.error
        return self._store(value, error)

    @np.errstate(all="ignore")
    def total(self, summands: Sequence[Approximation]) -> Approximation:
        """Return the sum of any number of arrays, in any order: gamma_{n-1} for n of them."""
        value = np.sum([a.value for a in summands], axis=0)
        max_abs = np.sum([a.max_abs for a in summands], axis=0)
        error = np.sum([a.error for a in summands], axis=0)
        more = len(summands) - 1
        error = error + (gamma(more, self.accumulate) + gamma(more, "float64")) * max_abs
        error = error + _where_nonzero(max_abs, more * format_of(self.accumulate).underflow_error)
        error = _infinite_on_overflow(format_of(self.accumulate), max_abs, error)
        return self._store(value, error)

    @np.errstate(all="ignore")
    def row_norms(self, a: Approximation) -> Approximation:
        """Return ‖row‖_2 of a (m, n): a sum of squares, then a square root, without scaling.

        |‖v + e‖ - ‖v‖| <= ‖e‖. A sum of n squares errs by gamma_n relatively, which a root turns
        into 1 - sqrt(1 - gamma_n), and the root itself is rounded. Squares that underflow lose d, n
        times the underflow error, of the sum S: sqrt(S) changes by at most min(sqrt(d), d /
        sqrt(S)).
        """
        n = a.value.shape[1]
        value = np.linalg.norm(a.value, axis=1)
        carried = np.linalg.norm(a.error, axis=1)
        max_abs = value + carried
        form = format_of(self.accumulate)
        relative = min(float(gamma(n, self.accumulate) + gamma(n, "float64")), 1.0)
        share = (1.0 - np.sqrt(1.0 - relative)) * (1.0 + form.unit_roundoff) + form.unit_roundoff
        lost = n * form.underflow_error
        under = np.where(max_abs > 0, np.minimum(np.sqrt(lost), lost / max_abs), 0.0)
        error = carried + share * max_abs + under
        error = _infinite_on_overflow(form, max_abs**2 * (1.0 + relative), error)
        return self._store(value, error)

    def _store(self, value: Array, error: Array) -> Approximation:
        """Round what was accumulated in another dtype, unless it is zero."""
        if self.accumulate != self.dtype:
            error = error + self.rounding(np.abs(value) + error)
        return _bounded(value, error)


DtypeLike = str | Arithmetic
"""The name of a dtype, which means its default arithmetic, or an arithmetic."""


def arithmetic_of(dtype: DtypeLike) -> Arithmetic:
    """Return the default arithmetic of a dtype, or the given arithmetic itself.

    Args:
        dtype: A name in `phi3_lora_qa.lora.FORMATS`, or an arithmetic.

    Returns:
        The arithmetic.

    Raises:
        InputError: The dtype is unknown.

    Example:
        >>> arithmetic_of("bfloat16").accumulate
        'float32'
    """
    return dtype if isinstance(dtype, Arithmetic) else Arithmetic(dtype=dtype)


def _rounding(max_abs: Array, dtype: str) -> Array:
    form = format_of(dtype)
    with np.errstate(invalid="ignore"):
        lost = (form.unit_roundoff + FORMATS["float64"].unit_roundoff) * max_abs + _where_nonzero(
            max_abs, form.underflow_error
        )
    return _infinite_on_overflow(form, max_abs, lost)


def _where_nonzero(max_abs: Array, lost: float | Array) -> Array:
    """Return ``lost`` where max_abs is above 0, else 0: an exact zero loses nothing."""
    there = max_abs > 0
    return np.asarray(lost) if there.all() else np.where(there, lost, 0.0)


def _infinite_on_overflow(form: Format, max_abs: Array, error: Array) -> Array:
    """Return the error, infinite where max_abs exceeds the largest number of the format."""
    beyond = max_abs > form.largest
    return np.where(beyond, np.inf, error) if beyond.any() else error


def _count_nonzero_terms(left: Array, right: Array) -> Array:
    """Count the terms of each inner product that are not certainly zero."""
    if left.all() and right.all():
        return np.full((1, 1), float(left.shape[1]))
    return (left > 0).astype(np.float64) @ (right > 0).astype(np.float64)


def _bounded(value: Array, error: Array) -> Approximation:
    """Return the pair, with an infinite error where the value or the error is NaN."""
    bounded = np.where(np.isnan(value), np.inf, np.fmin(error, np.inf))
    return Approximation(value=value, error=bounded)
