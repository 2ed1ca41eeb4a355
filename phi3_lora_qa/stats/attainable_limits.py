"""Limits at the end of what a score can be: no number of items can show that they hold.

An interval leaves room for what was not seen. So its bound comes near to the end of a range, and
never reaches it.
"""

import math
from dataclasses import dataclass

STEP = 0.01
"""How far from the end of a range the next limit is that is worth writing, as a share of it."""

ITEMS = math.ceil(math.log(0.05) / math.log1p(-STEP))
"""The items that show it, at 95 %, where all are at that end: (1 - STEP)^n is at most 5 %."""


@dataclass(frozen=True, kw_only=True)
class Reachable:
    """A limit that ``ITEMS`` items can show, in the place of one that none can."""

    rule: str
    value: float


def suggest_limit(
    rule: str,
    value: float,
    span: tuple[float, float] | None,
    *,
    higher_is_better: bool,
    from_best: bool = False,
) -> Reachable | None:
    """Return what to write for a limit that can fail or stay open, but never be shown to hold.

    Args:
        rule: As in ``phi3_lora_qa.stats.paired.decide``.
        value: The limit in the metric's own unit.
        span: The smallest and the largest possible score.
        higher_is_better: Which end of the span is the best.
        from_best: What is compared with has the best score by definition, so that nothing can be
            better than it.

    Returns:
        None where enough items can show the limit, or nothing is known of its range.
    """
    if span is None:
        return None
    step = STEP * (span[1] - span[0])
    highest = Reachable(rule="at_least", value=span[1] - step)
    lowest = Reachable(rule="at_most", value=span[0] + step)
    match rule:
        case "at_least":
            return highest if value >= span[1] else None
        case "at_most":
            return lowest if value <= span[0] else None
        case "improve_by" if from_best:
            return highest if higher_is_better else lowest
        case "no_worse_than" if from_best and value <= 0.0:
            return Reachable(rule=rule, value=step)
    return None
