"""Floating-point arithmetic as intervals: a reference value and how far a computed one may be.

Standard model (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. 2002, section 2.2):
fl(a op b) = (a op b)·(1 + d) + e with |d| <= u, the unit roundoff, and |e| at most a tiny absolute
amount where the result underflows. An inner product of n terms that are not zero, summed in any
order, errs by at most gamma_n · |x|ᵀ|y|, gamma_n = n·u / (1 - n·u) (section 3.1, eq. 3.5).

`Arithmetic` replays a computation step by step on pairs (value, error), as in running error
analysis (section 3.3), except that the values are exact ones. So every bound is a bound a priori,
and counts the roundings that really happen: none for a factor that is a power of two, none for a
product with zero, one where a low-precision result is stored after a sum in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.lora.factors import Array
from phi3_lora_qa.lora.float_formats import FORMATS, Format, format_of, gamma, round_to


@dataclass(frozen=True, kw_only=True)
class Approximation:
    """Exact values, and a bound on |computed - value| for each.

    Attributes:
        value: float64.
        error: float64 of the same shape, infinite where nothing is promised.
    """

    value: Array
    error: Array

    @property
    def reach(self) -> Array:
        """The largest magnitude that the computed value may have."""
        found: Array = np.abs(self.value) + self.error
        return found

    def transposed(self) -> "Approximation":
        """The transpose."""
        return Approximation(value=self.value.T, error=self.error.T)

    def column(self) -> "Approximation":
        """A vector (n,) as (n, 1), to go with rows."""
        return Approximation(value=self.value[:, None], error=self.error[:, None])


def exact(values: Array) -> Approximation:
    """Return values that are stored as they are."""
    return Approximation(value=values, error=np.broadcast_to(0.0, values.shape))


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What a layer computes in.

    Attributes:
        dtype: The dtype in which results are stored; the lower one where base and adapter differ.
        accumulate: The dtype in which inner products, sums and norms are added up, and stored once
            at the end. Empty for the usual: float32 for float16 and bfloat16 (torch on a CPU, and
            tensor cores), the dtype itself for the others. The dtype's own name is the worst case.
        mixed: Whether base and adapter have different dtypes, so that one delta may be rounded
            when it is added and differently when it is taken off.
    """

    dtype: str
    accumulate: str = ""
    mixed: bool = False

    def __post_init__(self) -> None:
        usual = "float32" if self.dtype in ("float16", "bfloat16") else self.dtype
        object.__setattr__(self, "accumulate", self.accumulate or usual)
        format_of(self.dtype), format_of(self.accumulate)

    @np.errstate(all="ignore")
    def given(self, values: Array) -> Approximation:
        """Return values that are cast to the dtype first, which may round them."""
        return _settled(values, np.abs(round_to(values, self.dtype) - values))

    def rounding(self, reach: Array) -> Array:
        """Bound |fl(z) - z| for |z| <= reach: u·reach and underflow; infinite past the largest.

        The reference, computed in float64, may itself be 2**-53 off; that is counted here.
        """
        return _rounding(reach, self.dtype)

    @np.errstate(all="ignore")
    def add(self, a: Approximation, b: Approximation) -> Approximation:
        """A + b, rounded unless one of them is zero."""
        error = a.error + b.error
        value = a.value + b.value
        both = (a.reach > 0) & (b.reach > 0)
        return _settled(value, error + np.where(both, self.rounding(np.abs(value) + error), 0.0))

    def subtract(self, a: Approximation, b: Approximation) -> Approximation:
        """A - b."""
        return self.add(a, Approximation(value=-b.value, error=b.error))

    @np.errstate(all="ignore")
    def scale(self, a: Approximation, factor: float) -> Approximation:
        """Factor · a. The factor may be rounded to the dtype; a power of two rounds nothing."""
        form = format_of(self.dtype)
        inexact = abs(float(round_to(np.asarray(factor), self.dtype)) - factor)
        value = factor * a.value
        error = abs(factor) * a.error
        if inexact:
            error = error + inexact * a.reach
        reach = np.abs(value) + error
        if abs(np.frexp(factor)[0]) != 0.5:
            error = error + self.rounding(reach)
        elif abs(factor) < 1:
            error = error + _floor(reach, form.floor)
        return _settled(value, _within(form, reach, error))

    @np.errstate(all="ignore")
    def times(self, a: Approximation, b: Approximation) -> Approximation:
        """A · b, entry by entry."""
        error = np.abs(a.value) * b.error + a.error * b.reach
        value = a.value * b.value
        return _settled(value, error + self.rounding(np.abs(value) + error))

    @np.errstate(all="ignore")
    def divide(self, a: Approximation, b: Approximation) -> Approximation:
        """A / b, entry by entry; nothing is promised where b may be zero.

        With â, b̂ the computed ones, â/b̂ - a/b = ((â - a) - (a/b)·(b̂ - b)) / b̂.
        """
        value = a.value / b.value
        least = np.abs(b.value) - b.error
        error = (a.error + np.abs(value) * b.error) / np.where(least > 0, least, 0.0)
        return _settled(value, error + self.rounding(np.abs(value) + error))

    @np.errstate(all="ignore")
    def product(self, a: Approximation, b: Approximation) -> Approximation:
        """The matrix product of a (m, n) and b (n, p), accumulated and then stored.

        Terms with an exact zero round nothing, so gamma counts the others only.
        """
        left, right = a.reach, b.reach
        value = a.value @ b.value
        reach = left @ right
        terms = _terms(left, right)
        own = (gamma(terms, self.accumulate) + gamma(terms, "float64")) * reach
        form = format_of(self.accumulate)
        lost = own + form.floor * terms
        if form.flushes:
            # Inputs below the smallest normal number may be taken for zero as well.
            lost = lost + form.floor * left.sum(axis=1)[:, None]
            lost = lost + form.floor * right.sum(axis=0)
        error = _within(form, reach + own, _floor(reach, lost))
        if a.error.any():
            error = error + a.error @ right
        if b.error.any():
            error = error + np.abs(a.value) @ b.error
        return self._store(value, error)

    @np.errstate(all="ignore")
    def total(self, summands: Sequence[Approximation]) -> Approximation:
        """The sum of any number of arrays, in any order: gamma_{n-1} for n of them."""
        value = np.sum([a.value for a in summands], axis=0)
        reach = np.sum([a.reach for a in summands], axis=0)
        error = np.sum([a.error for a in summands], axis=0)
        more = len(summands) - 1
        error = error + (gamma(more, self.accumulate) + gamma(more, "float64")) * reach
        error = error + _floor(reach, more * format_of(self.accumulate).floor)
        error = _within(format_of(self.accumulate), reach, error)
        return self._store(value, error)

    @np.errstate(all="ignore")
    def row_norms(self, a: Approximation) -> Approximation:
        """‖row‖_2 of a (m, n): squares summed up, then a square root, without scaling.

        |‖v + e‖ - ‖v‖| <= ‖e‖, a sum of n squares errs by gamma_n relatively, which a root turns
        into 1 - sqrt(1 - gamma_n), and the root itself is rounded. Squares that underflow lose n
        times the floor, d, of the sum S: sqrt(S) changes by at most min(sqrt(d), d / sqrt(S)).
        """
        n = a.value.shape[1]
        value = np.linalg.norm(a.value, axis=1)
        carried = np.linalg.norm(a.error, axis=1)
        reach = value + carried
        form = format_of(self.accumulate)
        relative = min(float(gamma(n, self.accumulate) + gamma(n, "float64")), 1.0)
        share = (1.0 - np.sqrt(1.0 - relative)) * (1.0 + form.u) + form.u
        lost = n * form.floor
        under = np.where(reach > 0, np.minimum(np.sqrt(lost), lost / reach), 0.0)
        error = carried + share * reach + under
        error = _within(form, reach**2 * (1.0 + relative), error)
        return self._store(value, error)

    def _store(self, value: Array, error: Array) -> Approximation:
        """Round what was accumulated in another dtype, unless it is zero."""
        if self.accumulate != self.dtype:
            error = error + self.rounding(np.abs(value) + error)
        return _settled(value, error)


def arithmetic_of(dtype: "str | Arithmetic") -> Arithmetic:
    """Return the usual arithmetic of a dtype, or the given one."""
    return dtype if isinstance(dtype, Arithmetic) else Arithmetic(dtype=dtype)


def _rounding(reach: Array, dtype: str) -> Array:
    form = format_of(dtype)
    with np.errstate(invalid="ignore"):
        lost = (form.u + FORMATS["float64"].u) * reach + _floor(reach, form.floor)
    return _within(form, reach, lost)


def _floor(reach: Array, lost: float | Array) -> Array:
    """What is lost where anything is there: an exact zero loses nothing."""
    there = reach > 0
    return np.asarray(lost) if there.all() else np.where(there, lost, 0.0)


def _within(form: Format, reach: Array, error: Array) -> Array:
    """The error, infinite where the format's largest number is passed."""
    beyond = reach > form.largest
    return np.where(beyond, np.inf, error) if beyond.any() else error


def _terms(left: Array, right: Array) -> Array:
    """Count the terms of each inner product that are not certainly zero."""
    if left.all() and right.all():
        return np.full((1, 1), float(left.shape[1]))
    return (left > 0).astype(np.float64) @ (right > 0).astype(np.float64)


def _settled(value: Array, error: Array) -> Approximation:
    """What came out as no number is not bounded."""
    bounded = np.where(np.isnan(value), np.inf, np.fmin(error, np.inf))
    return Approximation(value=value, error=bounded)
