"""Does the gate err as seldom as it says? Suites are drawn, and judged as the gate judges them.

Usage: python benchmarks/simulate.py [--suites 1000] [--seed 0]

Of each kind of score, with the tuned model as good as the base, worse by exactly the margin, and
far worse: how often the limit passes and fails, how often an interval misses the truth, how often
an early end says something else than the whole suite, and how many items it spares. The exit
status is 1 where a claim does not hold, by more than chance explains.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.record import Outcome
from phi3_lora_qa.stats.full_suite_bounds import LEVEL, NATS, bound_full_suite, next_batch_size
from phi3_lora_qa.stats.paired import compare, decide

MARGIN, ITEMS = 0.1, 150
ERROR = 0.05
"""How often a bound may miss, and so how often a limit may err."""

Random = np.random.Generator
Scores = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of score, and how a suite of it is drawn whose true mean is worse by so much."""

    draw: Callable[[float, Random], Scores]
    binary: bool = False
    span: tuple[float, float] | None = None
    clusters: Sequence[str] | None = None
    far: float = 0.4
    """How much worse the far worse one is."""
    clear: bool = True
    """That is clearly so: half of the items need not be asked."""

    @property
    def sign(self) -> int:
        """1 where more is better; a loss is better when less."""
        return -1 if self.span is None and not self.binary else 1


def right_or_wrong(worse: float, random: Random) -> Scores:
    """Zeros and ones, 80 % right; 3 % are gained whatever is lost."""
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
    """Losses of which one in twenty bears all that is lost."""
    base = random.gamma(4, 0.4, ITEMS)
    hit = random.random(ITEMS) < 0.05
    change = 0.02 * random.standard_normal(ITEMS) + np.where(hit, worse / 0.05, 0.0)
    return base.tolist(), (base + change).tolist()


def zeros(worse: float, random: Random) -> Scores:
    """Scores within [0, 1] of which some fall to 0, and the others stay."""
    base = random.uniform(0.6, 0.8, ITEMS)
    return base.tolist(), np.where(random.random(ITEMS) < worse / 0.7, 0.0, base).tolist()


def clustered(worse: float, random: Random) -> Scores:
    """Losses of three items a document, which change together."""
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
    """One suite: what all of it says, what an early end says, and after how many items."""

    whole: Outcome
    early: Outcome
    asked: int
    below: bool
    above: bool


def judge(kind: Kind, base: Sequence[float], tuned: Sequence[float], worse: float) -> Judged:
    """Hold a suite to "no worse than the margin" as the gate does, whole and early."""

    def said(interval: object) -> Outcome:
        return decide(interval, "no_worse_than", MARGIN, kind.sign > 0)  # type: ignore[arg-type]

    interval = compare(
        base, tuned, seed=0, binary=kind.binary, span=kind.span, clusters=kind.clusters
    )
    whole, truth = said(interval), -kind.sign * worse
    early, asked = whole, len(base)
    n = next_batch_size(0)
    while n < len(base) and kind.clusters is None:
        seen = bound_full_suite(
            base, tuned[:n], level=LEVEL, seed=0, binary=kind.binary, span=kind.span, likely=NATS
        )
        if said(seen) in (Outcome.PASSED, Outcome.FAILED):
            early, asked = said(seen), n
            break
        n += next_batch_size(n)
    return Judged(
        whole=whole,
        early=early,
        asked=asked,
        below=truth < interval.low - 1e-12,
        above=truth > interval.high + 1e-12,
    )


def too_often(count: int, suites: int, allowed: float) -> bool:
    """Whether a rate is above what is allowed by more than three standard errors of chance."""
    return count / suites > allowed + 3.0 * math.sqrt(allowed * (1.0 - allowed) / suites)


def broken_claims(truth: str, kind: Kind, found: Sequence[Judged]) -> list[str]:
    """Return what these suites say against the claims."""
    n = len(found)
    whole = [judged.whole for judged in found]
    apart = sum(judged.whole != judged.early for judged in found)
    spared = 1.0 - sum(judged.asked for judged in found) / (n * ITEMS)
    claims = {
        "a good one fails": truth == "equal" and too_often(whole.count(Outcome.FAILED), n, ERROR),
        "a bad one passes": truth != "equal" and too_often(whole.count(Outcome.PASSED), n, ERROR),
        "the lower bound misses": too_often(sum(judged.below for judged in found), n, ERROR),
        "the upper bound misses": too_often(sum(judged.above for judged in found), n, ERROR),
        "an early end differs": too_often(apart, n, LEVEL),
        "a clear case spares less than half": (
            truth == "far worse" and kind.clear and spared < 0.5
        ),
    }
    return [claim for claim, broken in claims.items() if broken]


def simulate(name: str, truth: str, suites: int, seed: int) -> list[Judged]:
    """Judge so many suites of a kind under a truth."""
    kind = KINDS[name]
    worse = {"equal": 0.0, "at the margin": MARGIN, "far worse": kind.far}[truth]
    random = np.random.default_rng([seed, *map(ord, name + truth)])
    return [judge(kind, *kind.draw(worse, random), worse) for _ in range(suites)]


def main() -> int:
    """Print a row for each kind and truth; return 1 if a claim is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suites", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{given.suites} suites of {ITEMS} items each, margin {MARGIN}")
    print("| score | truth | passes | fails | misses below | above | early differs | spared |")
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
                sum(1.0 - judged.asked / ITEMS for judged in found),
            ]
            shown = " | ".join(f"{100 * rate / given.suites:.1f} %" for rate in rates)
            print(f"| {name} | {truth} | {shown} |", flush=True)
            broken += [f"{name}, {truth}: {c}" for c in broken_claims(truth, kind, found)]
    print("\n".join(broken) or "every claim holds")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
