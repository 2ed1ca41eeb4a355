"""Measure the gate's error rates on simulated suites, judged as the gate judges them.

Usage: python benchmarks/simulate.py [--suites 1000] [--seed 0]

For each kind of score, with a tuned model that is as good as the base, worse by exactly the margin,
or far worse: how often the limit passes and fails, how often an interval misses the true value, how
often early stopping gives another result than the full suite, and the share of items it skips. The
exit status is 1 if an error rate is higher than claimed, by more than chance explains.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.full_suite_bounds import (
    ASSUMED_LOSS_RANGE,
    LEVEL,
    bound_full_suite,
    next_batch_size,
)
from phi3_lora_qa.stats.paired import compare, decide

MARGIN, ITEMS = 0.1, 150
ERROR = 0.05
"""Claimed error rate of each bound, and so of each limit."""

Random = np.random.Generator
Scores = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of score; ``draw`` draws a suite whose true mean is worse by the given amount."""

    draw: Callable[[float, Random], Scores]
    binary: bool = False
    span: tuple[float, float] | None = None
    clusters: Sequence[str] | None = None
    far: float = 0.4
    """How much worse the "far worse" model is."""
    clear: bool = True
    """The "far worse" model is so clearly worse that at least half of the items are skipped."""

    @property
    def sign(self) -> int:
        """1 if larger is better, -1 for a loss."""
        return -1 if self.span is None and not self.binary else 1


def right_or_wrong(worse: float, random: Random) -> Scores:
    """Zeros and ones, 80 % right; 3 % are gained regardless of the losses."""
    base = random.random(ITEMS) < 0.8
    lost = random.random(ITEMS) < (worse + 0.03) / 0.8
    gained = random.random(ITEMS) < 0.15
    return base.astype(float).tolist(), np.where(base, ~lost, gained).astype(float).tolist()


def shares(worse: float, random: Random) -> Scores:
    """Scores within [0, 1], such as F1."""
    base = random.uniform(0.6, 0.8, ITEMS)
    return base.tolist(), (base - worse + random.uniform(-0.2, 0.2, ITEMS)).tolist()


def losses(worse: float, random: Random) -> Scores:
    """Losses whose changes have heavy tails."""
    base = random.gamma(4, 0.4, ITEMS)
    return base.tolist(), (base + worse + 0.2 * random.standard_t(5, ITEMS)).tolist()


def collapses(worse: float, random: Random) -> Scores:
    """Losses: one in twenty gets worse, and the others do not change."""
    base = random.gamma(4, 0.4, ITEMS)
    hit = random.random(ITEMS) < 0.05
    change = 0.02 * random.standard_normal(ITEMS) + np.where(hit, worse / 0.05, 0.0)
    return base.tolist(), (base + change).tolist()


def zeros(worse: float, random: Random) -> Scores:
    """Scores within [0, 1]: some fall to 0, and the others do not change."""
    base = random.uniform(0.6, 0.8, ITEMS)
    return base.tolist(), np.where(random.random(ITEMS) < worse / 0.7, 0.0, base).tolist()


def clustered(worse: float, random: Random) -> Scores:
    """Losses of three items per document, whose changes are correlated."""
    base = random.gamma(4, 0.4, ITEMS)
    together = np.repeat(random.normal(0, 0.15, ITEMS // 3), 3)
    alone = random.normal(0, 0.15, ITEMS)
    return base.tolist(), (base + worse + together + alone).tolist()


KINDS = {
    "right or wrong": Kind(draw=right_or_wrong, binary=True),
    "share": Kind(draw=shares, span=(0.0, 1.0)),
    "share, zeros": Kind(draw=zeros, span=(0.0, 1.0)),
    "loss": Kind(draw=losses, far=0.8),
    "loss, collapses": Kind(draw=collapses, clear=False),
    "loss, clusters": Kind(
        draw=clustered, clear=False, clusters=[str(n // 3) for n in range(ITEMS)]
    ),
}
TRUTHS = ("equal", "at the margin", "far worse")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The results of one suite: in full, with early stopping, and the items evaluated for that."""

    whole: Outcome
    early: Outcome
    evaluated: int
    below: bool
    above: bool


def judge(kind: Kind, base: Sequence[float], tuned: Sequence[float], worse: float) -> Judged:
    """Judge a suite by "no worse than the margin" as the gate does, in full and early."""

    def result(interval: object) -> Outcome:
        return decide(interval, "no_worse_than", MARGIN, kind.sign > 0)  # type: ignore[arg-type]

    interval = compare(
        base, tuned, seed=0, binary=kind.binary, span=kind.span, clusters=kind.clusters
    )
    whole, truth = result(interval), -kind.sign * worse
    early, evaluated = whole, len(base)
    n = next_batch_size(0)
    while n < len(base) and kind.clusters is None:
        seen = bound_full_suite(
            base,
            tuned[:n],
            level=LEVEL,
            seed=0,
            binary=kind.binary,
            span=kind.span,
            likely=ASSUMED_LOSS_RANGE,
        )
        if result(seen) in (Outcome.PASSED, Outcome.FAILED):
            early, evaluated = result(seen), n
            break
        n += next_batch_size(n)
    return Judged(
        whole=whole,
        early=early,
        evaluated=evaluated,
        below=truth < interval.low - 1e-12,
        above=truth > interval.high + 1e-12,
    )


def too_often(count: int, suites: int, allowed: float) -> bool:
    """Return whether a rate exceeds the allowed one by more than three standard errors."""
    return count / suites > allowed + 3.0 * math.sqrt(allowed * (1.0 - allowed) / suites)


def broken_claims(truth: str, kind: Kind, found: Sequence[Judged]) -> list[str]:
    """Return the claims that these suites contradict."""
    n = len(found)
    whole = [judged.whole for judged in found]
    different = sum(judged.whole != judged.early for judged in found)
    skipped = 1.0 - sum(judged.evaluated for judged in found) / (n * ITEMS)
    claims = {
        "a good model fails": truth == "equal" and too_often(whole.count(Outcome.FAILED), n, ERROR),
        "a bad model passes": truth != "equal" and too_often(whole.count(Outcome.PASSED), n, ERROR),
        "the lower bound misses": too_often(sum(judged.below for judged in found), n, ERROR),
        "the upper bound misses": too_often(sum(judged.above for judged in found), n, ERROR),
        "early stopping differs": too_often(different, n, LEVEL),
        "less than half is skipped in a clear case": (
            truth == "far worse" and kind.clear and skipped < 0.5
        ),
    }
    return [claim for claim, broken in claims.items() if broken]


def simulate(name: str, truth: str, suites: int, seed: int) -> list[Judged]:
    """Draw and judge a number of suites of a kind, with the tuned model as ``truth`` says."""
    kind = KINDS[name]
    worse = {"equal": 0.0, "at the margin": MARGIN, "far worse": kind.far}[truth]
    random = np.random.default_rng([seed, *map(ord, name + truth)])
    return [judge(kind, *kind.draw(worse, random), worse) for _ in range(suites)]


def main() -> int:
    """Print a row for each kind and truth; return 1 if a claim is contradicted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suites", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{given.suites} suites of {ITEMS} items each, margin {MARGIN}")
    print("| score | truth | passes | fails | misses below | above | early differs | skipped |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    broken = []
    for name, kind in KINDS.items():
        for truth in TRUTHS:
            found = simulate(name, truth, given.suites, given.seed)
            rates = [
                sum(judged.whole is Outcome.PASSED for judged in found),
                sum(judged.whole is Outcome.FAILED for judged in found),
                sum(judged.below for judged in found),
                sum(judged.above for judged in found),
                sum(judged.whole != judged.early for judged in found),
                sum(1.0 - judged.evaluated / ITEMS for judged in found),
            ]
            shown = " | ".join(f"{100 * rate / given.suites:.1f} %" for rate in rates)
            print(f"| {name} | {truth} | {shown} |", flush=True)
            broken += [f"{name}, {truth}: {c}" for c in broken_claims(truth, kind, found)]
    print("\n".join(broken) or "no claim is contradicted")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
