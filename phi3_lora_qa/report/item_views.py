"""Items as the page shows them: whether they improved, and how the two answers differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phi3_lora_qa.data.item_table import error_text
from phi3_lora_qa.data.thresholds import WATCHED
from phi3_lora_qa.metrics import known_metrics, metric_info
from phi3_lora_qa.record import ItemRow, Metric, Turn, UnseenTurns
from phi3_lora_qa.report.plots import higher_is_better
from phi3_lora_qa.report.safe_text import TEXT_LIMIT, Cut, anchor, cut, one_line
from phi3_lora_qa.report.word_diff import Segment, word_diff

MAX_ITEMS = 500
"""The most items that the page shows, the worst first; the table of items contains all."""

TOLERANCE = 0.01
"""How far a loss (nats per token) or a score must move for the page to call it a change."""

NAME_LIMIT = 80
"""The most characters of an item's id or group that the page shows."""

MAX_TURNS = 20
"""The most earlier turns of an item that the page shows."""

REGRESSED, IMPROVED, DIFFERENT = "regressed", "improved", "different"
FLAGS = (REGRESSED, IMPROVED, DIFFERENT)

Labelling = Mapping[str, frozenset[str]]
"""The metrics that label the items of each group; `WATCHED` are those of any other group."""


@dataclass(frozen=True, kw_only=True)
class ScoreView:
    """One metric of one item."""

    metric: str
    base: float
    tuned: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class TurnView:
    """One turn of the prompt; the base's chat template may leave it out."""

    role: str
    text: Cut
    is_unseen: bool = False


@dataclass(frozen=True, kw_only=True)
class ItemView:
    """One item as the page shows it.

    ``question`` is the last user turn; ``context`` are the other turns, shown folded, without the
    ``turns_left_out`` of a very long conversation. ``unseen_turns`` is how many turns of the prompt
    the base's chat template leaves out, so that no model sees them. ``flags`` are the filters that
    show the item.
    """

    anchor: str
    id: str
    group: str
    excerpt: str
    question: Cut
    context: tuple[TurnView, ...]
    turns_left_out: int
    question_is_unseen: bool
    unseen_turns: int
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


def labelling_metrics(metrics: Sequence[Metric]) -> Labelling:
    """Return the metrics by which the items of each group are labelled improved or regressed.

    These are loss, exact match, token F1 and every other metric with a limit. A metric that
    measures the distance between the tuned model and the base changes with any training, so it
    never labels.
    """
    labelling = {group: {*WATCHED} for group in dict.fromkeys(m.group for m in metrics)}
    for metric in metrics:
        relative = metric.metric in known_metrics() and metric_info(metric.metric).relative
        if metric.limit is not None and not relative:
            labelling[metric.group].add(metric.metric)
    return {group: frozenset(names) for group, names in labelling.items()}


def count_flags(rows: Sequence[ItemRow], labelling: Labelling) -> dict[str, int]:
    """Return how many items each filter matches."""
    flags = [_flags(row, labelling) for row in rows]
    return {flag: sum(flag in found for found in flags) for flag in FLAGS}


def item_views(
    rows: Sequence[ItemRow], labelling: Labelling, unseen: Sequence[UnseenTurns] = ()
) -> tuple[ItemView, ...]:
    """Return the items to show, the largest loss increase first.

    Items with an error, and those whose loss is not a finite number, come first: nothing is known
    about their answers.
    """
    unseen_of = {entry.roles: frozenset(entry.turns) for entry in unseen}
    ranked = sorted(rows, key=_rank)[:MAX_ITEMS]
    seen: dict[str, int] = {}
    views = []
    for row in ranked:
        name = anchor("item", row.id)
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name}.{seen[name]}"
        roles = tuple(turn.role for turn in row.prompt)
        lost = unseen_of.get(roles, frozenset())
        views.append(_view(row, unique, _flags(row, labelling), lost))
    return tuple(views)


def _rank(row: ItemRow) -> tuple[bool, float, str, str]:
    change = row.tuned_loss - row.base_loss
    broken = row.failed or not math.isfinite(change)
    return (not broken, 0.0 if broken else -change, row.id, row.group)


def _view(row: ItemRow, name: str, flags: tuple[str, ...], unseen: frozenset[int]) -> ItemView:
    base_answer, tuned_answer = cut(row.base_answer), cut(row.tuned_answer)
    base, tuned = word_diff(base_answer.text, tuned_answer.text)
    place, question = _last_question(row.prompt)
    context = [n for n in range(len(row.prompt)) if n != place]
    return ItemView(
        anchor=name,
        id=one_line(row.id, NAME_LIMIT),
        group=one_line(row.group, NAME_LIMIT),
        excerpt=one_line(question, 110),
        question=cut(question),
        context=_turn_views(row.prompt, context[:MAX_TURNS], unseen),
        turns_left_out=max(0, len(context) - MAX_TURNS),
        question_is_unseen=place in unseen,
        unseen_turns=len(unseen),
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
        error=cut(error_text(row)),
    )


def _last_question(prompt: Sequence[Turn]) -> tuple[int, str]:
    """Return the position and the text of the last user turn."""
    places = [n for n, turn in enumerate(prompt) if turn.role == "user"] or [len(prompt) - 1]
    return places[-1], prompt[places[-1]].content if prompt else ""


def _turn_views(
    prompt: Sequence[Turn], places: Sequence[int], unseen: frozenset[int]
) -> tuple[TurnView, ...]:
    """Return the turns, cut so that all together are within the limit of one text."""
    views = []
    left = TEXT_LIMIT
    for place in places:
        text = cut(prompt[place].content, left)
        role = one_line(prompt[place].role, NAME_LIMIT)
        views.append(TurnView(role=role, text=text, is_unseen=place in unseen))
        left -= len(text.text)
    return tuple(views)


def _flags(row: ItemRow, labelling: Labelling) -> tuple[str, ...]:
    names = labelling.get(row.group, frozenset(WATCHED))
    worse = [row.tuned_loss - row.base_loss] if "loss" in names else []
    worse += [
        base - tuned if higher_is_better(name) else tuned - base
        for name, (base, tuned) in row.scores.items()
        if name in names
    ]
    # Written so that NaN, which compares false with everything, counts as a regression.
    regressed = row.failed or any(not change <= TOLERANCE for change in worse)
    improved = any(change < -TOLERANCE for change in worse)
    different = row.base_answer != row.tuned_answer
    matches = zip(FLAGS, (regressed, improved, different), strict=True)
    return tuple(flag for flag, is_set in matches if is_set)


def _word(row: ItemRow, flags: tuple[str, ...]) -> str:
    if row.failed:
        return "error"
    if REGRESSED in flags:
        return "mixed" if IMPROVED in flags else "regressed"
    return "improved" if IMPROVED in flags else "unchanged"
