"""Rounding-error bounds: how far a correct implementation may be from the reference.

Standard model of floating-point arithmetic (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed. 2002): fl(a op b) = (a op b)(1 + d), |d| <= u, with unit roundoff u. An inner
product of length n, summed in any order, errs by at most gamma_n · |x|ᵀ|y| with
gamma_n = n·u / (1 - n·u) (section 3.1, eq. 3.5; matrices: section 3.5, eq. 3.13). All bounds are
elementwise, for stored factors taken as exact.
"""

import numpy as np

from phi3_lora_qa.lora.factors import Array, Factors

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST_NORMAL = {
    "float64": 2.0**-1022,
    "float32": 2.0**-126,
    "float16": 2.0**-14,
    "bfloat16": 2.0**-126,
}
"""Below it the relative model fails; every bound adds this much for each operation's underflow."""


def gamma(n: int, dtype: str) -> float:
    """Return gamma_n = n·u / (1 - n·u); infinite where n·u >= 1, since nothing is promised then."""
    nu = n * UNIT_ROUNDOFF[dtype]
    return nu / (1.0 - nu) if nu < 1.0 else float("inf")


def ratios(error: Array, bound: Array) -> Array:
    """Return error / bound elementwise, 0 where there is no error.

    A NaN counts as infinitely far: as NaN the next, smaller ratio would replace it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(error == 0, 0.0, error / bound)
    return np.where(np.isnan(found), np.inf, found)


def delta_bound(factors: Factors, dtype: str) -> Array:
    """Bound |fl(s · B·A) - s · B·A|, float64 (out, in).

    r products and r - 1 sums give gamma_r; rounding s to ``dtype`` and the multiplication by it
    add one factor (1 + d) each, hence gamma_{r+2} · |s| · |B|·|A|.
    """
    reach = abs(factors.scaling) * (np.abs(factors.B) @ np.abs(factors.A))
    bound: Array = gamma(factors.rank + 2, dtype) * reach + _underflow(factors, dtype)
    return bound


def merge_bound(weight: Array, factors: Factors, dtype: str) -> Array:
    """Bound |fl(W') - W'| for the merged weight W' (DoRA's where there is a magnitude).

    Without DoRA: the error e of delta, then one addition: e·(1 + u) + u·|W + delta|.
    With DoRA, V = W + delta is computed within that bound E. The row norm errs relatively by at
    most gamma_{in+2} plus ‖E‖/‖V‖, and the quotient m/‖V‖ and the product add two roundings, so
    |error| <= m/‖V‖ · (E + |V| · (gamma_{in+6} + ‖E‖/‖V‖)) · (1 + 2·‖E‖/‖V‖) to first order.
    """
    u = UNIT_ROUNDOFF[dtype]
    combined = weight + factors.scaling * (factors.B @ factors.A)
    error: Array = delta_bound(factors, dtype) * (1 + u) + u * np.abs(combined)
    if factors.magnitude is None:
        return error
    norms = np.linalg.norm(combined, axis=1, keepdims=True)
    relative = np.linalg.norm(error, axis=1, keepdims=True) / norms
    gain = np.abs(factors.magnitude)[:, None] / norms
    spread = np.abs(combined) * (gamma(weight.shape[1] + 6, dtype) + relative)
    bound: Array = gain * (error + spread) * (1 + 2 * relative)
    return bound


def forward_bound(weight: Array, factors: Factors, x: Array, dtype: str) -> Array:
    """Bound |fl(y) - y| for y = W·x + s · (B·(A·x) + b), float64 (out,), without DoRA.

    W·x errs by gamma_in |W||x|. A·x errs by gamma_in |A||x|, is multiplied by B (gamma_r) and by
    s (two roundings), and one sum joins the two paths; gathered (Higham, lemma 3.3):
    gamma_{in+1} |W||x| + gamma_{in+r+3} |s| |B||A||x|. A bias b adds one sum to the low-rank path,
    and meets s and the joining sum itself: gamma_{in+r+4} there, and gamma_4 |s||b|.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA, without magnitude.
        x: One input, float64 (in,).
        dtype: What the layer computes in.
    """
    inside = int(weight.shape[1])
    size = np.abs(x)
    plain = gamma(inside + 1, dtype) * (np.abs(weight) @ size)
    reach = np.abs(factors.B) @ (np.abs(factors.A) @ size)
    terms = inside + factors.rank + (3 if factors.bias is None else 4)
    low_rank = gamma(terms, dtype) * abs(factors.scaling) * reach
    bound: Array = plain + low_rank + _underflow(factors, dtype)
    if factors.bias is None:
        return bound
    return bound + gamma(4, dtype) * abs(factors.scaling) * np.abs(factors.bias)


def _underflow(factors: Factors, dtype: str) -> float:
    """What results below the smallest normal number may lose, summed over the operations."""
    operations = factors.rank + 2
    return operations * SMALLEST_NORMAL[dtype] * max(1.0, abs(factors.scaling))
