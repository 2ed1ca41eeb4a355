"""What the page says of each item: which way it went, and where the two answers differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.record import ItemRow
from phi3_lora_qa.report.plots import higher_is_better
from phi3_lora_qa.report.safe_text import Cut, anchor, cut, one_line
from phi3_lora_qa.report.word_diff import Segment, word_diff

MAX_ITEMS = 500
"""How many items the page shows, the worst first; the table beside it holds all."""

TOLERANCE = 0.01
"""By how much a loss (nats per token) or a score must move before the page calls it a change."""

NAME_LIMIT = 80
"""How many characters of an item's id or group the page shows."""

REGRESSED, IMPROVED, DIFFERENT = "regressed", "improved", "different"


@dataclass(frozen=True, kw_only=True)
class ScoreView:
    """One metric of one item."""

    metric: str
    base: float
    tuned: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class ItemView:
    """One item as the page shows it. ``flags`` are the filters that it answers to."""

    anchor: str
    id: str
    group: str
    excerpt: str
    prompt: Cut
    reference: Cut
    base: tuple[Segment, ...]
    tuned: tuple[Segment, ...]
    base_answer: Cut
    tuned_answer: Cut
    base_loss: float
    tuned_loss: float
    loss_difference: float
    tokens: int
    scores: tuple[ScoreView, ...]
    flags: tuple[str, ...]
    word: str
    error: Cut


def item_views(rows: Sequence[ItemRow]) -> tuple[ItemView, ...]:
    """Return the items to show, the largest loss increase first.

    Items with an error, and those whose loss is no number, come before all others: they are
    what nobody can vouch for.
    """
    ranked = sorted(rows, key=_rank)[:MAX_ITEMS]
    seen: dict[str, int] = {}
    views = []
    for row in ranked:
        name = anchor("item", row.id)
        seen[name] = seen.get(name, 0) + 1
        views.append(_view(row, name if seen[name] == 1 else f"{name}.{seen[name]}"))
    return tuple(views)


def _rank(row: ItemRow) -> tuple[bool, float, str, str]:
    change = row.tuned_loss - row.base_loss
    broken = row.failed or not math.isfinite(change)
    return (not broken, 0.0 if broken else -change, row.id, row.group)


def _view(row: ItemRow, name: str) -> ItemView:
    base_answer, tuned_answer = cut(row.base_answer), cut(row.tuned_answer)
    base, tuned = word_diff(base_answer.text, tuned_answer.text)
    flags = _flags(row)
    return ItemView(
        anchor=name,
        id=one_line(row.id, NAME_LIMIT),
        group=one_line(row.group, NAME_LIMIT),
        excerpt=one_line(_question(row.prompt), 110),
        prompt=cut(row.prompt),
        reference=cut(row.reference),
        base=base,
        tuned=tuned,
        base_answer=base_answer,
        tuned_answer=tuned_answer,
        base_loss=row.base_loss,
        tuned_loss=row.tuned_loss,
        loss_difference=row.tuned_loss - row.base_loss,
        tokens=row.tokens,
        scores=tuple(
            ScoreView(metric=metric, base=base, tuned=tuned, difference=tuned - base)
            for metric, (base, tuned) in row.scores.items()
        ),
        flags=flags,
        word=_word(row, flags),
        error=cut(_error_of(row)),
    )


def _question(prompt: str) -> str:
    """Return the last turn: after many items with one system prompt, only it tells them apart."""
    return prompt.rstrip().rsplit("\n\n", 1)[-1].removeprefix("user: ")


def _flags(row: ItemRow) -> tuple[str, ...]:
    worse = [row.tuned_loss - row.base_loss]
    worse += [b - t if higher_is_better(m) else t - b for m, (b, t) in row.scores.items()]
    # Written so that NaN, which compares false with everything, counts as a regression.
    regressed = row.failed or any(not change <= TOLERANCE for change in worse)
    improved = any(change < -TOLERANCE for change in worse)
    different = row.base_answer != row.tuned_answer
    flags = ((REGRESSED, regressed), (IMPROVED, improved), (DIFFERENT, different))
    return tuple(flag for flag, holds in flags if holds)


def _word(row: ItemRow, flags: tuple[str, ...]) -> str:
    if row.failed:
        return "error"
    if REGRESSED in flags:
        return "mixed" if IMPROVED in flags else "regressed"
    return "improved" if IMPROVED in flags else "unchanged"


def _error_of(row: ItemRow) -> str:
    sides = (("base", row.base_error), ("tuned", row.tuned_error))
    return "; ".join(f"{side}: {error}" for side, error in sides if error)
