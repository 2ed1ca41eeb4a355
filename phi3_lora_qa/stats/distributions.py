"""Tails and quantiles of the binomial, Student's t and the normal distribution, with numpy alone.

scipy has them, too, but takes 140 MB: more than everything else that a suite's check needs. The
tests compare every function with scipy's.
"""

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Numbers = NDArray[np.float64]

_MOST_TERMS = 100_000
_TINY, _ACCURACY = 1e-300, 1e-15
_GRID, _ROUNDS = 65, 9
"""Points of each search for a quantile, and searches: together they halve the range 54 times."""

_SHIFT = 10
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def binomial_tail(least: "ArrayLike", trials: "ArrayLike", chance: "ArrayLike") -> "Numbers":
    """Return the probability of at least so many successes; the arguments are broadcast.

    Args:
        least: Successes, from 1 to ``trials``.
        trials: Trials.
        chance: The probability of a success, in [0, 1].
    """
    import numpy as np

    fewest, n = np.asarray(least, float), np.asarray(trials, float)
    return incomplete_beta(fewest, n - fewest + 1.0, chance)


def coin_tail(least: int, tosses: int) -> float:
    """Return the probability of at least so many heads of a fair coin, correctly rounded."""
    ways, total = math.comb(tosses, least), 0
    for heads in range(least, tosses + 1):
        total += ways
        ways = ways * (tosses - heads) // (heads + 1)
    return float(total / 2**tosses)


def share_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Return the exact bounds for the probability of a success (Clopper and Pearson).

    Args:
        successes: Successes.
        trials: Trials; without any, the bounds are 0 and 1.
        confidence: Confidence of the two bounds together.

    Source: C. Clopper, E. Pearson, Biometrika 26 (1934) 404-413.
    """
    tail, failures = (1.0 - confidence) / 2.0, trials - successes
    low = beta_quantile(tail, successes, failures + 1.0) if successes else 0.0
    high = beta_quantile(1.0 - tail, successes + 1.0, failures) if failures else 1.0
    return low, high


def student_quantile(confidence: float, degrees: float) -> float:
    """Return the bound that the absolute value of Student's t does not exceed with a confidence.

    Args:
        confidence: The confidence, in (0, 1).
        degrees: Degrees of freedom, above 0.
    """
    share = beta_quantile(confidence, 0.5, degrees / 2.0)  # of t^2 / (t^2 + degrees)
    return math.sqrt(degrees * share / (1.0 - share))


def normal_tail(x: float) -> float:
    """Return the probability that a standard normal variable is at most x."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def normal_quantile(chance: float) -> float:
    """Return the quantile of the standard normal distribution; infinite at 0 and 1."""
    if not 0.0 < chance < 1.0:
        return math.copysign(math.inf, chance - 0.5)
    return NormalDist().inv_cdf(chance)


def beta_quantile(chance: float, a: float, b: float) -> float:
    """Return the x at which `incomplete_beta` is ``chance``, by narrowing a grid of points."""
    import numpy as np

    low, high = 0.0, 1.0
    for _ in range(_ROUNDS):
        points = np.linspace(low, high, _GRID)
        above = int(np.searchsorted(incomplete_beta(a, b, points)[1:-1], chance)) + 1
        low, high = float(points[above - 1]), float(points[above])
    return (low + high) / 2.0


def incomplete_beta(a: "ArrayLike", b: "ArrayLike", x: "ArrayLike") -> "Numbers":
    """Return the regularized incomplete beta function I_x(a, b); the arguments are broadcast.

    Source: NIST Digital Library of Mathematical Functions, 8.17.22: a continued fraction, which is
    evaluated by Lentz's method in Thompson and Barnett's form, on the side where it converges fast.
    """
    import numpy as np

    first, second, place = np.broadcast_arrays(
        np.asarray(a, float), np.asarray(b, float), np.asarray(x, float)
    )
    mirrored = place > (first + 1.0) / (first + second + 2.0)
    p = np.where(mirrored, second, first)
    q = np.where(mirrored, first, second)
    at = np.where(mirrored, 1.0 - place, place)
    part = _density(p, q, at) * _fraction(p.ravel(), q.ravel(), at.ravel()).reshape(p.shape) / p
    return np.asarray(np.clip(np.where(mirrored, 1.0 - part, part), 0.0, 1.0))


def _density(p: "Numbers", q: "Numbers", x: "Numbers") -> "Numbers":
    """Return x^p (1 - x)^q / B(p, q), with the large terms of its logarithm cancelled out."""
    import numpy as np

    both = p + q
    exponent = x_log_y(p, x * both / p) + x_log_y(q, (1.0 - x) * both / q)
    errors = _stirling_error(both) - _stirling_error(p) - _stirling_error(q)
    return np.asarray(np.exp(exponent + errors) * np.sqrt(p * q / (2.0 * math.pi * both)))


def _fraction(p: "Numbers", q: "Numbers", x: "Numbers") -> "Numbers":
    import numpy as np

    def safe(value: "Numbers") -> "Numbers":
        return np.where(np.abs(value) < _TINY, _TINY, value)

    above = np.ones_like(x)
    below = 1.0 / safe(1.0 - (p + q) * x / (p + 1.0))
    value, found, left = below, np.empty_like(x), np.arange(x.size)
    for m in range(1, _MOST_TERMS):
        even = m * (q - m) * x / ((p + 2 * m - 1) * (p + 2 * m))
        odd = -(p + m) * (p + q + m) * x / ((p + 2 * m) * (p + 2 * m + 1))
        below = 1.0 / safe(1.0 + even * below)
        above = safe(1.0 + even / above)
        value = value * below * above
        below = 1.0 / safe(1.0 + odd * below)
        above = safe(1.0 + odd / above)
        value = value * below * above
        going = np.abs(below * above - 1.0) > _ACCURACY
        if 2 * int(going.sum()) <= left.size:  # only then is it cheaper to leave out the others
            found[left] = value
            left, p, q, x = left[going], p[going], q[going], x[going]
            above, below, value = above[going], below[going], value[going]
        if not left.size:
            break
    found[left] = value
    return found


def _stirling_error(x: "Numbers") -> "Numbers":
    """Return log gamma(x) minus Stirling's formula, x > 0, by Stirling's series."""
    import numpy as np

    small = x < _SHIFT
    large = np.where(small, x + _SHIFT, x)
    error, square = np.zeros_like(large), large**-2
    for factor in reversed(_STIRLING):
        error = error * square + factor
    error = error / large
    if small.any():
        rise = np.ones_like(x)
        for number in range(_SHIFT):
            rise = rise * np.where(small, x + number, 1.0)
        error = error + np.where(small, _stirling(large) - np.log(rise) - _stirling(x), 0.0)
    return np.asarray(error)


def _stirling(x: "Numbers") -> "Numbers":
    import numpy as np

    return np.asarray((x - 0.5) * np.log(x) - x)


def x_log_y(x: "ArrayLike", y: "ArrayLike") -> "Numbers":
    """Return x log y, and 0 if x is 0, whatever y is; the arguments are broadcast."""
    import numpy as np

    factor, value = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(factor == 0.0, 0.0, factor * np.log(value))
