"""What is foreseen of the whole suite is what the whole suite then says."""

from collections.abc import Sequence

import numpy as np
import pytest

from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.foresight import drawn, foresee, portion
from phi3_lora_qa.stats.paired import compare, decide

TOTAL, SUITES = 150, 12
SETTLED = (Outcome.PASSED, Outcome.FAILED)


def suite(kind: str, worse: float, random: np.random.Generator) -> tuple[list[float], list[float]]:
    """A suite on which the tuned model is worse by so much: binary, within [0, 1], or a loss."""
    if kind == "binary":
        base = (random.random(TOTAL) < 0.8).astype(float)
        lost = (random.random(TOTAL) < worse + 0.03) & (base == 1)
        gained = (random.random(TOTAL) < 0.03) & (base == 0)
        tuned = np.where(lost, 0.0, np.where(gained, 1.0, base))
    elif kind == "bounded":
        base = random.beta(5, 2, TOTAL)
        tuned = np.clip(base - worse + random.normal(0, 0.1, TOTAL), 0, 1)
    else:
        base = random.gamma(4, 0.4, TOTAL)
        tuned = base + worse + random.normal(0, 0.2, TOTAL)
    return base.tolist(), tuned.tolist()


def outcomes(
    kind: str, base: Sequence[float], tuned: Sequence[float], margin: float
) -> tuple[Outcome, Outcome, int]:
    """What the whole suite says, what is said at the end of an early stop, and after how many."""
    span = (0.0, 1.0) if kind == "bounded" else None
    form = {"binary": kind == "binary", "span": span}
    better = kind != "loss"

    def said(interval: object) -> Outcome:
        return decide(interval, "no_worse_than", margin, better)  # type: ignore[arg-type]

    whole = said(compare(base, tuned, seed=0, **form))  # type: ignore[arg-type]
    n = portion(0)
    while n < TOTAL:
        early = foresee(base[:n], tuned[:n], total=TOTAL, level=0.05, seed=0, **form)  # type: ignore[arg-type]
        if said(early) in SETTLED:
            return whole, said(early), n
        n += portion(n)
    return whole, whole, TOTAL


@pytest.mark.parametrize("kind", ["binary", "bounded", "loss"])
@pytest.mark.parametrize("worse", [0.0, 0.1, 0.4])
def test_an_early_end_says_what_the_whole_suite_says(kind: str, worse: float) -> None:
    random = np.random.default_rng(11)
    found = [outcomes(kind, *suite(kind, worse, random), 0.1) for _ in range(SUITES)]
    wrong = sum(whole != early for whole, early, _ in found)
    assert wrong <= 2  # P(more than 2 of 12) is 2 % at the agreed 5 %, and it is far below
    if worse == 0.4:
        assert {early for _, early, _ in found} == {Outcome.FAILED}
        assert np.mean([n for *_, n in found]) <= (TOTAL if kind == "binary" else TOTAL / 2)


def test_near_the_limit_nothing_is_certain() -> None:
    base, tuned = suite("loss", 0.1, np.random.default_rng(3))
    assert outcomes("loss", base, tuned, 0.1)[2] == TOTAL


def test_foreseen_bounds_lie_outside_of_those_of_the_whole_suite() -> None:
    base, tuned = suite("bounded", 0.05, np.random.default_rng(4))
    whole = compare(base, tuned, seed=0, binary=False, span=(0.0, 1.0))
    early = foresee(
        base[:60], tuned[:60], total=TOTAL, level=0.01, seed=0, binary=False, span=(0.0, 1.0)
    )
    assert early.low < whole.low < whole.high < early.high
    assert early.tuned_low < whole.tuned_low < whole.tuned_high < early.tuned_high
    assert early.n == 60
    assert "foreseen for all 150 items" in early.method


def test_the_order_of_drawing_is_the_seeds_and_no_files() -> None:
    names = [f"item-{number}" for number in range(200)]
    order = sorted(names, key=lambda name: drawn(name, 0))
    assert order == sorted(reversed(names), key=lambda name: drawn(name, 0))
    assert order != sorted(names, key=lambda name: drawn(name, 1))
    assert order != names
