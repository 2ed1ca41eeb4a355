"""Limits that no number of items can show to be met, and the closest limit that can.

A confidence bound allows for items that were not seen, so it approaches the end of a score's range
but never reaches it. A limit at that end can fail, but can never pass.
"""

import math
from dataclasses import dataclass

STEP = 0.01
"""Distance of the suggested limit from the end of the range, as a share of the range."""

ITEMS = math.ceil(math.log(0.05) / math.log1p(-STEP))
"""Items that show the suggested limit at 95 % if all have the best score: (1 - STEP)^n <= 5 %."""


@dataclass(frozen=True, kw_only=True)
class AttainableLimit:
    """A limit that ``ITEMS`` items can show to be met."""

    rule: str
    value: float


def suggest_limit(
    rule: str,
    value: float,
    span: tuple[float, float] | None,
    *,
    higher_is_better: bool,
    from_best: bool = False,
) -> AttainableLimit | None:
    """Return the closest attainable limit for one that can fail but never pass.

    Args:
        rule: As in ``phi3_lora_qa.stats.paired.decide``.
        value: The limit in the metric's own unit.
        span: The smallest and the largest possible score.
        higher_is_better: Which end of the span is the best.
        from_best: The reference has the best possible score by definition, so nothing can be
            better than it.

    Returns:
        None if enough items can show that the limit is met, or if the range is unknown.
    """
    if span is None:
        return None
    step = STEP * (span[1] - span[0])
    highest = AttainableLimit(rule="at_least", value=span[1] - step)
    lowest = AttainableLimit(rule="at_most", value=span[0] + step)
    match rule:
        case "at_least":
            return highest if value >= span[1] else None
        case "at_most":
            return lowest if value <= span[0] else None
        case "improve_by" if from_best:
            return highest if higher_is_better else lowest
        case "no_worse_than" if from_best and value <= 0.0:
            return AttainableLimit(rule=rule, value=step)
    return None
