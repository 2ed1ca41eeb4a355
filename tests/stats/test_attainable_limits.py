"""A limit at the end of a range can never pass; the suggested limit can."""

import math

import pytest

from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.attainable_limits import ITEMS, suggest_limit
from phi3_lora_qa.stats.paired import compare, decide

MORE = math.ceil(1.05 * ITEMS)
"""The Monte Carlo bound of scores within a range may need a few more items."""

UNIT, PERCENT = (0.0, 1.0), (0.0, 100.0)
CASES = [
    # rule, value, span, higher is better, base and tuned at their best, what to write
    ("at_least", 1.0, UNIT, True, (0.0, 1.0), ("at_least", 0.99)),
    ("at_least", 100.0, PERCENT, True, (0.0, 100.0), ("at_least", 99.0)),
    ("at_most", 0.0, UNIT, False, (1.0, 0.0), ("at_most", 0.01)),
]
FROM_BEST = [
    ("improve_by", 0.0, UNIT, True, (1.0, 1.0), ("at_least", 0.99)),
    ("improve_by", 0.0, UNIT, False, (0.0, 0.0), ("at_most", 0.01)),
    ("no_worse_than", 0.0, UNIT, True, (1.0, 1.0), ("no_worse_than", 0.01)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "value", "span", "higher", "best", "expected", "from_best"),
    [*((*case, False) for case in CASES), *((*case, True) for case in FROM_BEST)],
)
def test_an_unattainable_limit_stays_undecided_and_the_suggested_one_passes(
    rule: str,
    value: float,
    span: tuple[float, float],
    higher: bool,
    best: tuple[float, float],
    expected: tuple[str, float],
    from_best: bool,
) -> None:
    other = suggest_limit(rule, value, span, higher_is_better=higher, from_best=from_best)
    assert other is not None
    assert other.rule == expected[0]
    assert other.value == pytest.approx(expected[1])

    def judged(n: int, rule: str, value: float, *, binary: bool) -> Outcome:
        base, tuned = ([score] * n for score in best)
        found = compare(base, tuned, seed=0, binary=binary, span=span)
        return decide(found, rule, value, higher)

    for binary in (False, True) if span == UNIT else (False,):
        enough = ITEMS if binary else MORE
        assert judged(2_000, rule, value, binary=binary) is Outcome.INCONCLUSIVE
        assert judged(enough, other.rule, other.value, binary=binary) is Outcome.PASSED
        assert judged(280, other.rule, other.value, binary=binary) is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("rule", "value", "span"),
    [
        ("at_least", 0.99, UNIT),
        ("at_most", 1.0, UNIT),
        ("improve_by", 0.5, UNIT),
        ("no_worse_than", 0.0, UNIT),  # an improvement passes it
        ("at_most", 0.0, None),  # the range is unknown
    ],
)
def test_an_attainable_limit_has_no_suggestion(
    rule: str, value: float, span: tuple[float, float] | None
) -> None:
    assert suggest_limit(rule, value, span, higher_is_better=True) is None


def test_a_positive_margin_is_attainable() -> None:
    assert suggest_limit("no_worse_than", 0.1, UNIT, higher_is_better=True, from_best=True) is None
