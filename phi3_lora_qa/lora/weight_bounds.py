"""Rounding-error bounds on weights: delta, merging, unmerging, and extracting a delta.

Each bound is elementwise and deterministic: a correct implementation cannot be farther from the
reference, for any order of its sums. The stored factors count as exact. ``dtype`` is the dtype in
which the layer computes, or an `Arithmetic` that also says how inner products are accumulated.
Notation: u the unit roundoff of the dtype, v that of the accumulation, gamma_n for v, all from
`phi3_lora_qa.lora.interval_arithmetic`; f(z) = u·|z| plus the underflow of one operation, infinite
where z exceeds the dtype's range.
"""

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array, Factors, require_factors
from phi3_lora_qa.lora.interval_arithmetic import Approximation, Arithmetic, arithmetic_of, exact


def delta_bound(factors: Factors, dtype: str | Arithmetic) -> Array:
    """Bound |fl(s · B·A) - s · B·A|.

    With P = B·A, the product is within e = gamma_r · |B|·|A| (+ f(P) if v is not u, since it is
    then stored), and the scaling within |s|·e + |fl(s) - s|·|P| + f(s·P), without the last for a
    power of two (Higham 2002, section 3.5, eq. 3.13). Terms with a zero factor do not count in r.

    Args:
        factors: The module's LoRA factors.
        dtype: The dtype or `Arithmetic` in which the layer computes.

    Returns:
        float64 (out, in); infinite where no bound exists.

    Raises:
        InputError: The factors do not match, or the dtype is unknown.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.3)
        >>> bool((delta_bound(factors, "float32") < 1e-7).all())
        True
    """
    return approximate_delta(factors, arithmetic_of(dtype)).error


def merge_bound(weight: Array, factors: Factors, dtype: str | Arithmetic) -> Array:
    """Bound |fl(W') - W'| for the merged weight W', DoRA's if there is a magnitude.

    Without DoRA: the error e of delta, then one addition: e + f(|W + delta| + e).
    With DoRA, V = W + delta is computed within that bound E. The norm N of a row errs by at most
    ‖E‖ + (gamma_in/2 + v)·N + f(N), the quotient m/N accordingly, and the product m/N · V is
    rounded once more.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        dtype: The dtype or `Arithmetic` in which the layer computes.

    Returns:
        float64 (out, in); infinite where no bound exists.

    Raises:
        InputError: As `delta_bound`.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.3)
        >>> merge_bound(np.ones((3, 2)), factors, "bfloat16").shape
        (3, 2)
    """
    return approximate_merge(exact(weight), factors, arithmetic_of(dtype)).error


def unmerge_bound(weight: Array, factors: Factors, dtype: str | Arithmetic) -> Array:
    """Bound |fl(fl(W + D) - D) - W|, the change of W after merging and unmerging.

    The same computed D is added and subtracted, so its own error cancels. What remains is the
    rounding of both sums, e1 = f(|W + D| + error of D) and f(|W| + e1). In mixed dtypes D may be
    rounded again before it is subtracted, f(D) more. With DoRA the product with g = m/N and the
    division by the same g add f(g·V)/|g| and f(V).

    Both computations of the delta must give the same bits, as they do for the same shapes and
    number of threads.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        dtype: The dtype or `Arithmetic` in which the layer computes.

    Returns:
        float64 (out, in); infinite where no bound exists.

    Raises:
        InputError: As `delta_bound`.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.3)
        >>> unmerge_bound(np.ones((3, 2)), factors, "bfloat16").shape
        (3, 2)
    """
    return _cycle_error(exact(weight), factors, arithmetic_of(dtype))


def merge_cycles_bound(
    weight: Array, factors: Factors, dtype: str | Arithmetic, cycles: int
) -> Array:
    """Bound the drift of W after any number of merge and unmerge cycles.

    Rounding to nearest with ties to even does not drift: with + and - rounded, x = (w + d) - d
    satisfies (x + d) - d = x, so all cycles after the first change nothing (Reiser and Knuth 1975,
    "Evading the drift in floating-point addition", Information Processing Letters 3; Knuth, The Art
    of Computer Programming 2, section 4.2.2, theorem D). The bound is that of one cycle.

    With DoRA or mixed dtypes the theorem does not apply. The bound of one cycle, with the drift so
    far added to |W|, then accumulates.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        dtype: The dtype or `Arithmetic` in which the layer computes.
        cycles: The number of cycles.

    Returns:
        float64 (out, in); infinite where no bound exists.

    Raises:
        InputError: The number of cycles is negative, or as `delta_bound`.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.3)
        >>> one, many = (merge_cycles_bound(np.ones((3, 2)), factors, "float32", n) for n in (1, 9))
        >>> bool((one == many).all())
        True
    """
    if cycles < 0:
        raise InputError(f"cycles must be at least 0: got {cycles}; pass 0 or more")
    arithmetic = arithmetic_of(dtype)
    drifts = factors.magnitude is not None or arithmetic.mixed
    state = exact(weight)
    for _ in range(cycles if drifts else min(cycles, 1)):
        state = Approximation(value=weight, error=_cycle_error(state, factors, arithmetic))
    return state.error


def extraction_bound(weight: Array, factors: Factors, dtype: str | Arithmetic) -> Array:
    """Bound |fl(fl(W') - W) - (W' - W)|, for the delta extracted from a merged checkpoint.

    The merge's error e, and the rounding of the difference: e + f(|W' - W| + e). Subtracting in a
    wider dtype only removes the second part.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        dtype: The dtype or `Arithmetic` of the merge and the subtraction.

    Returns:
        float64 (out, in); infinite where no bound exists.

    Raises:
        InputError: As `delta_bound`.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.3)
        >>> extraction_bound(np.ones((3, 2)), factors, "bfloat16").shape
        (3, 2)
    """
    arithmetic = arithmetic_of(dtype)
    merged = approximate_merge(exact(weight), factors, arithmetic)
    return arithmetic.subtract(merged, exact(weight)).error


def factorization_bound(weight: Array, factors: Factors, dtype: str | Arithmetic) -> float:
    """Bound ‖X - delta‖_F for X the best approximation of rank r of the extracted delta.

    With M = delta + E extracted, ‖X - M‖ <= ‖delta - M‖ since delta itself has rank r, hence ‖X -
    delta‖ <= 2·‖E‖_F, with E from `extraction_bound`. DoRA is not covered, and the rounding of the
    SVD itself (float64) is not counted.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        dtype: The dtype or `Arithmetic` of the merge and the subtraction.

    Returns:
        The bound; infinite where none exists.

    Raises:
        InputError: As `delta_bound`.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.3)
        >>> factorization_bound(np.ones((3, 2)), factors, "float32") < 1e-5
        True
    """
    return 2.0 * float(np.linalg.norm(extraction_bound(weight, factors, dtype)))


def approximate_delta(factors: Factors, arithmetic: Arithmetic) -> Approximation:
    """Return s · B·A with a bound on the error of a computed one."""
    require_factors(factors)
    product = arithmetic.product(exact(factors.B), exact(factors.A))
    return arithmetic.scale(product, factors.scaling)


def approximate_merge(
    weight: Approximation, factors: Factors, arithmetic: Arithmetic
) -> Approximation:
    """Return the merged weight with a bound on the error of a computed one."""
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


def _cycle_error(weight: Approximation, factors: Factors, arithmetic: Arithmetic) -> Array:
    """Bound the error of W after one merge and unmerge; what is equal in both cancels."""
    delta = approximate_delta(factors, arithmetic)
    combined = arithmetic.add(weight, delta)
    kept = weight.error + arithmetic.rounding(np.abs(combined.value) + weight.error + delta.error)
    if factors.magnitude is not None:
        kept = kept + _dora_cycle_error(combined, factors.magnitude, arithmetic)
    if arithmetic.mixed:
        kept = kept + arithmetic.rounding(delta.max_abs)
    error = kept + arithmetic.rounding(np.abs(weight.value) + kept)
    if factors.magnitude is None:
        return np.where(delta.max_abs > 0, error, weight.error)
    return error


@np.errstate(all="ignore")
def _dora_cycle_error(combined: Approximation, magnitude: Array, arithmetic: Arithmetic) -> Array:
    """Bound |fl(fl(g·V) / g) - V| where both use the same computed g."""
    gain = approximate_gain(combined, magnitude, arithmetic).column()
    least = np.abs(gain.value) - gain.error
    back = arithmetic.rounding(gain.max_abs * combined.max_abs) / np.where(least > 0, least, 0.0)
    lost = back + arithmetic.rounding(combined.max_abs + back)
    return np.where(np.isnan(lost), np.inf, lost)
