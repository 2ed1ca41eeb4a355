"""What the whole suite will say, told from the items that were drawn so far.

The interval of the whole suite is bounded from both sides: by the worst and by the best suite that
the items seen still allow. Where even the worst would pass a limit, or even the best would fail it,
the rest need not be asked. `phi3_lora_qa.stats.paired.decide` takes these bounds as it takes an
interval's own.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from phi3_lora_qa.stats.betting import betting_bounds
from phi3_lora_qa.stats.bounded_mean import bounded_interval
from phi3_lora_qa.stats.paired import CONFIDENCE, Interval, mean_of
from phi3_lora_qa.stats.paired_binary import exact_interval
from phi3_lora_qa.stats.unbounded_mean import unbounded_interval

if TYPE_CHECKING:
    from phi3_lora_qa.stats.clusters import Numbers

LEVEL = 0.05
"""How often an early end may say something else than the whole suite would have said."""

FIRST = 48
"""Items of a group before anything is foreseen."""

NATS = (0.0, 12.0)
"""Between what a score in nats per token is taken to lie where it was not seen, unless one that was
seen lies outside: 12 is what guessing blindly among 163,000 tokens costs."""

Bounds = tuple[float, float]


def next_batch_size(seen: int) -> int:
    """Return how many items of a group to ask before the next look: half of what was seen."""
    return max(FIRST // 2, seen // 2) if seen else FIRST


def sampling_key(name: str, order: int) -> bytes:
    """Return the place of an item in an order of drawing: by its name and the order's number."""
    return hashlib.sha256(f"{order} {name}".encode("utf-8", "surrogatepass")).digest()


def bound_full_suite(  # noqa: PLR0913 - as compare, and how sure to be
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    level: float,
    seed: int,
    binary: bool,
    span: Bounds | None = None,
    likely: Bounds | None = None,
) -> Interval:
    """Bound the interval that all items will give.

    Args:
        base: The scores of all items, those first that were drawn, in the order of drawing.
        tuned: The tuned model's scores of the items drawn; at least two.
        level: Each bound may be wrong with this probability.
        seed: Of the resampling.
        binary: Scores are 0 or 1.
        span: Smallest and largest possible score, None where there is no limit.
        likely: Without a span, between what unseen scores are taken to lie; None where nothing is
            known, and then nothing is foreseen: the bounds are infinite.

    Returns:
        ``low`` and ``tuned_low`` are at most the whole suite's, ``high`` and ``tuned_high`` at
        least, each but for ``level``; means and n are those of the items seen.
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
        both = np.concatenate((all_before, after))
        reach = (min(possible[0], float(both.min())), max(possible[1], float(both.max())))
        # How far a score can change depends on where the base left it, and that is known.
        moves = (reach[0] - float(all_before.max()), reach[1] - float(all_before.min()))

        def bounds(span: Bounds | None, whole: "Numbers") -> Bounds:
            if span is None:
                return unbounded_interval(whole, CONFIDENCE, seed)
            return bounded_interval(whole, span, CONFIDENCE, seed)

        twice = (span[0] - span[1], span[1] - span[0]) if span else None
        low, high = _completed(change, total, moves, level, partial(bounds, twice))
        tuned_low, tuned_high = _completed(after, total, reach, level, partial(bounds, span))
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
        n=len(tuned),
        observations=len(tuned),
        confidence=CONFIDENCE,
    )


def _counts(seen: "Numbers", total: int, level: float) -> tuple[int, int]:
    """Return the fewest and the most ones that all items can hold."""
    low, high = betting_bounds(seen, total, (0.0, 1.0), level)
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


def _completed(
    seen: "Numbers", total: int, span: Bounds, level: float, interval: Callable[["Numbers"], Bounds]
) -> Bounds:
    """Complete the suite by values like those seen, and some at an end of the range.

    There are as many of them as move the mean to its bound. Of all suites with that mean this one
    is spread most: a few items that collapse, and not all that get a little worse.
    """
    import numpy as np

    left, now = total - seen.size, float(seen.mean())
    found = []
    for side, mean in enumerate(betting_bounds(seen, total, span, level)):
        end, wanted = span[side], (mean * total - float(seen.sum())) / left
        share = (wanted - now) / (end - now) if end != now else 0.0
        ends = min(left, max(0, math.ceil(share * left - 1e-9)))
        like = (np.arange(left - ends) * 2 + 1) * seen.size // (2 * max(1, left - ends))
        whole = np.concatenate((seen, np.sort(seen)[like], np.full(ends, end)))
        found.append(interval(np.sort(whole))[side])
    return found[0], found[1]
