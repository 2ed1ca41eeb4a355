"""Predict the interval of the full suite from the items drawn so far, for early stopping.

The full suite's interval is bounded from both sides: by the worst and by the best suite that the
items seen still allow. If even the worst passes a limit, or even the best fails it, the other items
need not be evaluated. `phi3_lora_qa.stats.paired.decide` accepts these bounds like an interval's.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from phi3_lora_qa.stats.betting import betting_bounds
from phi3_lora_qa.stats.bounded_mean import bounded_interval
from phi3_lora_qa.stats.distributions import share_interval
from phi3_lora_qa.stats.paired import CONFIDENCE, Interval, difference_span, exact_mean
from phi3_lora_qa.stats.paired_binary import exact_interval
from phi3_lora_qa.stats.unbounded_mean import unbounded_interval

if TYPE_CHECKING:
    from phi3_lora_qa.stats.clusters import Numbers

LEVEL = 0.05
"""Largest probability that early stopping gives another result than the full suite."""

FIRST_BATCH = 48
"""Items of a group that are evaluated before the first prediction."""

ASSUMED_LOSS_RANGE = (0.0, 12.0)
"""Range of unseen losses, in nats per token, unless a loss outside of it was seen. A uniform guess
among 163,000 tokens has a loss of 12."""

Bounds = tuple[float, float]


def next_batch_size(seen: int) -> int:
    """Return how many items of a group to evaluate before the next look: half of those seen."""
    return max(FIRST_BATCH // 2, seen // 2) if seen else FIRST_BATCH


def sampling_key(name: str, order: int) -> bytes:
    """Return the sort key of an item in the random order of a number."""
    return hashlib.sha256(f"{order} {name}".encode("utf-8", "surrogatepass")).digest()


def bound_full_suite(  # noqa: PLR0913 - as compare, and the error level
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    level: float,
    seed: int,
    binary: bool,
    span: Bounds | None = None,
    likely: Bounds | None = None,
) -> Interval:
    """Return bounds for the interval of the full suite.

    Args:
        base: The base's scores of all items; the items drawn come first, in the order of drawing.
        tuned: The tuned model's scores of the items drawn; at least two.
        level: Error probability of each bound.
        seed: Seed of the resampling.
        binary: Scores are 0 or 1.
        span: Smallest and largest possible score; None if the score is unbounded.
        likely: Without a span, the assumed range of unseen scores; None if nothing is known, so
            that the bounds are infinite.

    Returns:
        ``low`` and ``tuned_low`` are at most the full suite's, ``high`` and ``tuned_high`` at least
        the full suite's, each except with probability ``level``. Means and n are those of the
        items seen.
    """
    import numpy as np

    all_before, after = np.asarray(base, dtype=np.float64), np.asarray(tuned, dtype=np.float64)
    total, before = all_before.size, all_before[: after.size]
    change = after - before
    possible = span or likely
    if binary:
        low, high = _binary_change(change, total, level)
        tuned_low, tuned_high = _binary_share(after, total, level)
    elif possible is None:
        low, high = tuned_low, tuned_high = -math.inf, math.inf
    else:
        (low, high), (tuned_low, tuned_high) = _continuous(
            all_before, after, possible=possible, span=span, level=level, seed=seed
        )
    kind = "exact" if binary else "bounded mean" if span else "bootstrap"
    return Interval(
        mean_base=exact_mean(before),
        mean_tuned=exact_mean(after),
        difference=exact_mean(change),
        low=low,
        high=high,
        tuned_low=tuned_low,
        tuned_high=tuned_high,
        deviation=float(change.std(ddof=1)),
        method=f"{kind}, predicted for all {total} items",
        n=len(tuned),
        observations=len(tuned),
        confidence=CONFIDENCE,
    )


def _counts(seen: "Numbers", total: int, level: float) -> tuple[int, int]:
    """Return bounds for the number of ones among all items."""
    low, high = betting_bounds(seen, total, (0.0, 1.0), level)
    return math.ceil(low * total - 1e-6), math.floor(high * total + 1e-6)


def _binary_change(change: "Numbers", total: int, level: float) -> Bounds:
    """Bound the exact interval, which falls with each loss and rises with each gain."""
    gained = _counts((change > 0).astype(float), total, level / 2.0)
    lost = _counts((change < 0).astype(float), total, level / 2.0)
    low = exact_interval(gained[0], min(lost[1], total - gained[0]), total, CONFIDENCE)[0]
    high = exact_interval(min(gained[1], total - lost[0]), lost[0], total, CONFIDENCE)[1]
    return low, high


def _binary_share(after: "Numbers", total: int, level: float) -> Bounds:
    fewest, most = _counts(after, total, level)
    low, _ = share_interval(fewest, total, CONFIDENCE)
    _, high = share_interval(most, total, CONFIDENCE)
    return low, high


def _continuous(  # noqa: PLR0913 - scores, their ranges, and two settings
    all_before: "Numbers",
    after: "Numbers",
    *,
    possible: Bounds,
    span: Bounds | None,
    level: float,
    seed: int,
) -> tuple[Bounds, Bounds]:
    """Return bounds for the intervals of the difference and of the tuned mean."""
    import numpy as np

    both = np.concatenate((all_before, after))
    reach = (min(possible[0], float(both.min())), max(possible[1], float(both.max())))
    # The base's scores are known, which limits how far each can change.
    moves = (reach[0] - float(all_before.max()), reach[1] - float(all_before.min()))

    def bounds(span: Bounds | None, full: "Numbers") -> Bounds:
        if span is None:
            return unbounded_interval(full, CONFIDENCE, seed)
        return bounded_interval(full, span, CONFIDENCE, seed)

    total, change = all_before.size, after - all_before[: after.size]
    return (
        _completed(change, total, moves, level, partial(bounds, difference_span(span))),
        _completed(after, total, reach, level, partial(bounds, span)),
    )


def _completed(
    seen: "Numbers", total: int, span: Bounds, level: float, interval: Callable[["Numbers"], Bounds]
) -> Bounds:
    """Return the interval's bounds for the worst and the best completion of the suite.

    The missing items are like those seen, except for as many at the end of the range as move the
    mean to its bound. Of all suites with that mean, this one has the largest spread: a few items
    collapse, instead of all getting a little worse.
    """
    import numpy as np

    left, now = total - seen.size, float(seen.mean())
    found = []
    for side, mean in enumerate(betting_bounds(seen, total, span, level)):
        end, target = span[side], (mean * total - float(seen.sum())) / left
        share = (target - now) / (end - now) if end != now else 0.0
        ends = min(left, max(0, math.ceil(share * left - 1e-9)))
        like = (np.arange(left - ends) * 2 + 1) * seen.size // (2 * max(1, left - ends))
        whole = np.concatenate((seen, np.sort(seen)[like], np.full(ends, end)))
        found.append(interval(np.sort(whole))[side])
    return found[0], found[1]
