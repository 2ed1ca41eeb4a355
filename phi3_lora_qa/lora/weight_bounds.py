"""Rounding-error bounds on weights: delta, merging, unmerging, and reading a delta back.

Each bound is elementwise and deterministic: a correct implementation can't be farther from the
reference, whatever the order of its sums. The stored factors count as exact. ``dtype`` is what the
layer computes in, or an `Arithmetic` that also says how inner products are accumulated. Notation:
u the unit roundoff of the dtype, v that of the accumulation, gamma_n for v, all from
`phi3_lora_qa.lora.interval_arithmetic`; f(z) = u·|z| and the underflow of one operation, infinite
where z leaves the dtype's range.
"""

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array, Factors, require_factors
from phi3_lora_qa.lora.interval_arithmetic import Approximation, Arithmetic, arithmetic_of, exact


def delta_bound(factors: Factors, dtype: str | Arithmetic) -> Array:
    """Bound |fl(s · B·A) - s · B·A|, float64 (out, in).

    With P = B·A, the product is within e = gamma_r · |B|·|A| (+ f(P) if v is not u, as it is then
    stored), and the scaling within |s|·e + |fl(s) - s|·|P| + f(s·P), without the last for a power
    of two (Higham 2002, section 3.5, eq. 3.13). Terms with a zero factor count neither in r.
    """
    return approximate_delta(factors, arithmetic_of(dtype)).error


def merge_bound(weight: Array, factors: Factors, dtype: str | Arithmetic) -> Array:
    """Bound |fl(W') - W'| for the merged weight W' (DoRA's where there is a magnitude).

    Without DoRA: the error e of delta, then one addition: e + f(|W + delta| + e).
    With DoRA, V = W + delta is computed within that bound E. The norm N of a row errs by at most
    ‖E‖ + (gamma_in/2 + v)·N + f(N), the quotient m/N accordingly, and the product m/N · V is
    rounded once more.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA.
        dtype: What the layer computes in.
    """
    return approximate_merge(exact(weight), factors, arithmetic_of(dtype)).error


def unmerge_bound(weight: Array, factors: Factors, dtype: str | Arithmetic) -> Array:
    """Bound |fl(fl(W + D) - D) - W|, how far merging and unmerging leaves W changed.

    The same computed D is added and taken off, so its own error cancels: what is left is the
    rounding of both sums, e1 = f(|W + D| + error of D) and f(|W| + e1). In mixed dtypes D may be
    rounded anew before it is taken off, f(D) more. With DoRA the product with g = m/N and its
    division by the same g add f(g·V)/|g| and f(V).

    The delta has to be computed to the same bits both times, as it is for the same shapes and
    number of threads.
    """
    return _cycle(exact(weight), factors, arithmetic_of(dtype))


def cycles_bound(weight: Array, factors: Factors, dtype: str | Arithmetic, cycles: int) -> Array:
    """Bound the drift of W after any number of merges and unmerges.

    Rounding to nearest with ties to even does not drift: with + and - rounded, x = (w + d) - d
    satisfies (x + d) - d = x, so all cycles after the first change nothing (Reiser and Knuth 1975,
    "Evading the drift in floating-point addition", Information Processing Letters 3; Knuth, The Art
    of Computer Programming 2, section 4.2.2, theorem D). The bound is that of one cycle.

    With DoRA or mixed dtypes the theorem does not apply, and the bound of one cycle, with the drift
    so far added to |W|, accumulates.

    Raises:
        InputError: The number of cycles is below 0.
    """
    if cycles < 0:
        raise InputError(f"there are no {cycles} cycles; give 0 or more")
    arithmetic = arithmetic_of(dtype)
    drifts = factors.magnitude is not None or arithmetic.mixed
    state = exact(weight)
    for _ in range(cycles if drifts else min(cycles, 1)):
        state = Approximation(value=weight, error=_cycle(state, factors, arithmetic))
    return state.error


def extraction_bound(weight: Array, factors: Factors, dtype: str | Arithmetic) -> Array:
    """Bound |fl(fl(W') - W) - (W' - W)|, the delta read back from a merged checkpoint.

    The merge's error e, and the rounding of the difference: e + f(|W' - W| + e). Subtracting in a
    wider dtype only saves the second part.
    """
    arithmetic = arithmetic_of(dtype)
    merged = approximate_merge(exact(weight), factors, arithmetic)
    return arithmetic.subtract(merged, exact(weight)).error


def refactoring_bound(weight: Array, factors: Factors, dtype: str | Arithmetic) -> float:
    """Bound ‖X - delta‖_F for X the best approximation of rank r of the delta that was read back.

    With M = delta + E read back, ‖X - M‖ <= ‖delta - M‖ as delta has rank r itself, hence
    ‖X - delta‖ <= 2·‖E‖_F, with E from `extraction_bound`. Without DoRA only. The rounding of the
    SVD itself (float64) is not counted.
    """
    return 2.0 * float(np.linalg.norm(extraction_bound(weight, factors, dtype)))


def approximate_delta(factors: Factors, arithmetic: Arithmetic) -> Approximation:
    """Return s · B·A and how far a computed one may be."""
    require_factors(factors)
    product = arithmetic.product(exact(factors.B), exact(factors.A))
    return arithmetic.scale(product, factors.scaling)


def approximate_merge(
    weight: Approximation, factors: Factors, arithmetic: Arithmetic
) -> Approximation:
    """Return the merged weight and how far a computed one may be."""
    combined = arithmetic.add(weight, approximate_delta(factors, arithmetic))
    if factors.magnitude is None:
        return combined
    gain = approximate_gain(combined, factors.magnitude, arithmetic)
    return arithmetic.times(gain.column(), combined)


def approximate_gain(
    combined: Approximation, magnitude: Array, arithmetic: Arithmetic
) -> Approximation:
    """Return DoRA's m / ‖V‖ (out,) for V = W + delta."""
    return arithmetic.divide(exact(magnitude), arithmetic.row_norms(combined))


def _cycle(weight: Approximation, factors: Factors, arithmetic: Arithmetic) -> Array:
    """Bound the error of W after a merge and an unmerge; what is the same in both cancels."""
    delta = approximate_delta(factors, arithmetic)
    combined = arithmetic.add(weight, delta)
    kept = weight.error + arithmetic.rounding(np.abs(combined.value) + weight.error + delta.error)
    if factors.magnitude is not None:
        kept = kept + _scaled_and_back(combined, factors.magnitude, arithmetic)
    if arithmetic.mixed:
        kept = kept + arithmetic.rounding(delta.reach)
    error = kept + arithmetic.rounding(np.abs(weight.value) + kept)
    if factors.magnitude is None:
        return np.where(delta.reach > 0, error, weight.error)
    return error


@np.errstate(all="ignore")
def _scaled_and_back(combined: Approximation, magnitude: Array, arithmetic: Arithmetic) -> Array:
    """Bound |fl(fl(g·V) / g) - V| for one and the same computed g."""
    gain = approximate_gain(combined, magnitude, arithmetic).column()
    least = np.abs(gain.value) - gain.error
    back = arithmetic.rounding(gain.reach * combined.reach) / np.where(least > 0, least, 0.0)
    lost = back + arithmetic.rounding(combined.reach + back)
    return np.where(np.isnan(lost), np.inf, lost)
