"""What a suite can detect, and its faults: duplicates, trained items, stop tokens in answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.near_duplicates import MOST_COMPARISONS, NearDuplicateIndex, shingles
from phi3_lora_qa.data.power import (
    PowerAssumptions,
    detectable_mean,
    detectable_share,
    independent_items,
)
from phi3_lora_qa.data.suite import without_duplicates
from phi3_lora_qa.data.turn_tokens import WELL_KNOWN, MarkedItem, TurnTokens, find_marked_items

Conversation = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The shortest, the median and the longest of some texts."""

    least: int
    median: float
    most: int


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """One group of items, as the gate counts them: without exact duplicates.

    ``independent`` is how many independent items they are worth; ``detectable_share`` and
    ``detectable_loss`` (nats per token) are the smallest detectable changes. Lengths are in words,
    and in tokens if a tokenizer was given.
    """

    name: str
    items: int
    clusters: int
    independent: float
    detectable_share: float
    detectable_loss: float
    with_checks: int
    with_choices: int
    prompt_words: Lengths
    reference_words: Lengths
    prompt_tokens: Lengths | None
    reference_tokens: Lengths | None


@dataclass(frozen=True, kw_only=True)
class DuplicateItem:
    """An item that is the same as another one, or similar to it; ``similarity`` is at most 1."""

    item: str
    other: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class TrainedItem:
    """An item that is the same as a row of the training data (from 1), or similar to it."""

    item: str
    training_row: int
    similarity: float


@dataclass(frozen=True, kw_only=True)
class SuiteReport:
    """The whole suite.

    ``marked`` are the items in which an answer contains a token of a chat template.
    ``not_compared`` counts the items for which the search for near duplicates ended early, and
    ``not_compared_with_training`` those for which the search of the training rows did.
    """

    groups: tuple[GroupReport, ...]
    duplicates: tuple[DuplicateItem, ...]
    near_duplicates: tuple[DuplicateItem, ...]
    trained_on: tuple[TrainedItem, ...]
    nearly_trained_on: tuple[TrainedItem, ...]
    marked: tuple[MarkedItem, ...]
    not_compared: int
    not_compared_with_training: int

    @property
    def has_faults(self) -> bool:
        """Whether an item must be fixed."""
        return bool(
            self.duplicates
            or self.near_duplicates
            or self.trained_on
            or self.nearly_trained_on
            or self.marked
        )

    @property
    def is_clean(self) -> bool:
        """Whether everything was compared, and no item must be fixed."""
        return not (self.has_faults or self.not_compared or self.not_compared_with_training)


def check_suite(  # noqa: PLR0913  the inputs of the check, most of them optional
    items: Sequence[Item],
    trained: Sequence[Conversation] = (),
    assumptions: PowerAssumptions | None = None,
    count_tokens: Callable[[str], int] | None = None,
    budget: int = MOST_COMPARISONS,
    *,
    turn_tokens: TurnTokens = WELL_KNOWN,
) -> SuiteReport:
    """Check a suite for duplicates, items that were trained on, and answers with stop tokens.

    Prompts are duplicates if they differ only in case and spacing, and near duplicates if their
    word 3-shingles are similar (`near_duplicates`) and their system turns are the same. Near
    duplicates within one cluster are not a fault: the cluster declares that they belong together.

    Args:
        items: The suite.
        trained: The conversations of the training data, in the order of the file.
        assumptions: The assumptions for the power.
        count_tokens: Counts the tokens of a text, for the lengths.
        budget: The most comparisons of two texts, among the items and with the training rows.
        turn_tokens: The tokens of the base's chat template, which no answer may contain.
    """
    assumptions = assumptions or PowerAssumptions()
    first: dict[object, str] = {}
    duplicates = []
    for item in items:
        other = first.setdefault(_key(item.prompt), item.id)
        if other != item.id:
            duplicates.append(DuplicateItem(item=item.id, other=other, similarity=1.0))
    repeated = {pair.item for pair in duplicates}
    distinct = [item for item in items if item.id not in repeated]
    near, unseen = _near_duplicates(distinct, budget)
    same, similar, unseen_rows = _overlap(distinct, trained, budget)
    counted = without_duplicates(items)
    return SuiteReport(
        groups=tuple(
            _group(
                name, [item for item in counted if item.group == name], assumptions, count_tokens
            )
            for name in sorted({item.group for item in counted})
        ),
        duplicates=tuple(duplicates),
        near_duplicates=near,
        trained_on=same,
        nearly_trained_on=similar,
        marked=find_marked_items(items, turn_tokens),
        not_compared=unseen,
        not_compared_with_training=unseen_rows,
    )


def _key(prompt: Conversation) -> object:
    return tuple((turn.role, " ".join(turn.content.casefold().split())) for turn in prompt)


def _system(prompt: Conversation) -> object:
    return _key(tuple(turn for turn in prompt if turn.role == "system"))


def _text(prompt: Conversation) -> str:
    """Return all turns but the system turn; because all items share it, all would be similar."""
    return "\n".join(turn.content for turn in prompt if turn.role != "system")


def _near_duplicates(items: Sequence[Item], budget: int) -> tuple[tuple[DuplicateItem, ...], int]:
    """Return the near duplicates, and for how many items the search ended early."""
    index = NearDuplicateIndex([shingles(_text(item.prompt)) for item in items], budget)
    pairs = []
    for number, item in enumerate(items):
        for other, similarity in index.find(index.texts[number]):
            like = items[other]
            together = item.cluster and item.cluster == like.cluster
            if not together and _system(item.prompt) == _system(like.prompt):
                found = DuplicateItem(item=item.id, other=like.id, similarity=similarity)
                pairs.append(found)
                break  # one is enough to know that the item must be fixed
        index.add(number)
    return tuple(pairs), index.unfinished


def _overlap(
    items: Sequence[Item], trained: Sequence[Conversation], budget: int
) -> tuple[tuple[TrainedItem, ...], tuple[TrainedItem, ...], int]:
    """Return the items that were trained on, those that nearly were, and how many are unknown."""
    prompts = [row[:-1] for row in trained]
    rows: dict[object, int] = {}
    for number, prompt in enumerate(prompts):
        rows.setdefault(_key(prompt), number)
    index = NearDuplicateIndex([shingles(_text(prompt)) for prompt in prompts], budget)
    for number in rows.values():
        index.add(number)
    same, similar = [], []
    for item in items:
        if (row := rows.get(_key(item.prompt))) is not None:
            same.append(TrainedItem(item=item.id, training_row=row + 1, similarity=1.0))
            continue
        for number, similarity in index.find(shingles(_text(item.prompt))):
            if _system(item.prompt) == _system(prompts[number]):
                row = number + 1
                similar.append(TrainedItem(item=item.id, training_row=row, similarity=similarity))
                break
    return tuple(same), tuple(similar), index.unfinished


def _group(
    name: str,
    items: Sequence[Item],
    assumptions: PowerAssumptions,
    count_tokens: Callable[[str], int] | None,
) -> GroupReport:
    independent = independent_items(item.cluster for item in items)
    prompts = ["\n".join(turn.content for turn in item.prompt) for item in items]
    references = [item.reference for item in items]
    return GroupReport(
        name=name,
        items=len(items),
        clusters=len({item.cluster for item in items if item.cluster}),
        independent=independent,
        detectable_share=detectable_share(independent, assumptions.discordant),
        detectable_loss=detectable_mean(independent, assumptions.deviation),
        with_checks=sum(bool(item.checks) for item in items),
        with_choices=sum(bool(item.choices) for item in items),
        prompt_words=_lengths(prompts, _words),
        reference_words=_lengths(references, _words),
        prompt_tokens=_lengths(prompts, count_tokens) if count_tokens else None,
        reference_tokens=_lengths(references, count_tokens) if count_tokens else None,
    )


def _words(text: str) -> int:
    return len(text.split())


def _lengths(texts: Sequence[str], count: Callable[[str], int]) -> Lengths:
    counts = [count(text) for text in texts]
    return Lengths(least=min(counts), median=float(median(counts)), most=max(counts))
