"""What the whole suite will say, told from the items that were drawn so far.

The interval of the whole suite is bounded from both sides: by the worst and by the best suite that
the items seen still allow. Where even the worst would pass a limit, or even the best would fail it,
the rest need not be asked. `phi3_lora_qa.stats.paired.decide` takes these bounds as it takes an
interval's own.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.stats.binary import exact_interval
from phi3_lora_qa.stats.bounded import bounded_interval
from phi3_lora_qa.stats.paired import CONFIDENCE, Interval, mean_of
from phi3_lora_qa.stats.unbounded import unbounded_interval
from phi3_lora_qa.stats.wagers import asymptotic_bounds, wagered_bounds

if TYPE_CHECKING:
    from phi3_lora_qa.stats.clusters import Numbers

LEVEL = 0.05
"""How often an early end may say something else than the whole suite would have said."""

FIRST = 48
"""Items of a group before anything is foreseen."""

Bounds = tuple[float, float]


def portion(seen: int) -> int:
    """Return how many items of a group to ask before the next look: half of what was seen."""
    return max(FIRST // 2, seen // 2) if seen else FIRST


def drawn(name: str, seed: int) -> bytes:
    """Return the place of an item in the order of drawing: by its name and the seed alone."""
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()


def foresee(  # noqa: PLR0913 - as compare, and how much is still to come
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    total: int,
    level: float,
    seed: int,
    binary: bool,
    span: Bounds | None = None,
) -> Interval:
    """Bound the interval that all ``total`` items will give.

    Args:
        base: The scores so far, in the order of drawing; at least two.
        tuned: Those of the tuned model.
        total: How many items there are in all.
        level: Each bound may be wrong with this probability.
        seed: Of the resampling.
        binary: Scores are 0 or 1.
        span: Smallest and largest possible score.

    Returns:
        ``low`` and ``tuned_low`` are at most the whole suite's, ``high`` and ``tuned_high`` at
        least, each but for ``level``; means and n are those of the items seen.
    """
    import numpy as np

    before, after = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    change = after - before
    if binary:
        low, high = _binary_change(change, total, level)
        tuned_low, tuned_high = _binary_share(after, total, level)
    else:
        twice = (span[0] - span[1], span[1] - span[0]) if span else None
        low, high = _completed(change, total, twice, level, seed)
        tuned_low, tuned_high = _completed(after, total, span, level, seed)
    kind = "exact" if binary else "bounded mean" if span else "bootstrap"
    return Interval(
        mean_base=mean_of(before),
        mean_tuned=mean_of(after),
        difference=mean_of(change),
        low=low,
        high=high,
        tuned_low=tuned_low,
        tuned_high=tuned_high,
        deviation=float(change.std(ddof=1)),
        method=f"{kind}, foreseen for all {total} items",
        n=len(base),
        observations=len(base),
        confidence=CONFIDENCE,
    )


def _counts(seen: "Numbers", total: int, level: float) -> tuple[int, int]:
    """Return the fewest and the most ones that all items can hold."""
    low, high = wagered_bounds(seen, total, (0.0, 1.0), level)
    return math.ceil(low * total - 1e-6), math.floor(high * total + 1e-6)


def _binary_change(change: "Numbers", total: int, level: float) -> Bounds:
    """The exact interval falls with each loss and rises with each gain: its ends bound it."""
    gained = _counts((change > 0).astype(float), total, level / 2.0)
    lost = _counts((change < 0).astype(float), total, level / 2.0)
    low = exact_interval(gained[0], min(lost[1], total - gained[0]), total, CONFIDENCE)[0]
    high = exact_interval(min(gained[1], total - lost[0]), lost[0], total, CONFIDENCE)[1]
    return low, high


def _binary_share(after: "Numbers", total: int, level: float) -> Bounds:
    from scipy import stats

    fewest, most = _counts(after, total, level)
    low = stats.binomtest(fewest, total).proportion_ci(CONFIDENCE, method="exact").low
    high = stats.binomtest(most, total).proportion_ci(CONFIDENCE, method="exact").high
    return float(low), float(high)


def _completed(seen: "Numbers", total: int, span: Bounds | None, level: float, seed: int) -> Bounds:
    """Complete the suite by values like those seen, moved so that its mean is the bound.

    Only the mean is bounded for certain; that the rest is spread as what was seen is taken for
    granted, and held to account by simulation (benchmarks/simulate.py).
    """
    import numpy as np

    if span is None:
        means = asymptotic_bounds(seen, total, level)
    else:
        means = wagered_bounds(seen, total, span, level)
    left = total - seen.size
    rest = np.sort(seen)[(np.arange(left) * 2 + 1) * seen.size // (2 * left)]
    found = []
    for side, mean in enumerate(means):
        wanted = (mean * total - float(seen.sum())) / left
        whole = np.sort(np.concatenate((seen, _moved(rest, wanted, span, side))))
        if span is None:
            interval = unbounded_interval(whole, CONFIDENCE, seed)
        else:
            interval = bounded_interval(whole, span, CONFIDENCE, seed)
        found.append(interval[side])
    return found[0], found[1]


def _moved(rest: "Numbers", mean: float, span: Bounds | None, side: int) -> "Numbers":
    """Move values to a mean: together, or within a range all towards its end."""
    now = float(rest.mean())
    if span is None:
        return rest + (mean - now)
    end = span[side]
    if now == end:
        return rest
    share = min(1.0, max(0.0, (mean - now) / (end - now)))
    return rest + share * (end - rest)
