"""What a suite can decide, and what is wrong with it: copies, and what was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from phi3_lora_qa.data.assumed import Assumed
from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.near_duplicates import MOST_COMPARISONS, NearDuplicateIndex, shingles
from phi3_lora_qa.data.power import detectable_mean, detectable_share, independent_items
from phi3_lora_qa.data.suite import without_duplicates

Conversation = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The shortest, the median and the longest of some texts."""

    least: int
    median: float
    most: int


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """One group of items, as the gate counts them: without exact copies of one another.

    ``independent`` is what the items are worth if those of one cluster are alike;
    ``detectable_share`` and ``detectable_loss`` (nats per token) are the smallest changes that it
    can show. Lengths are in words, and in tokens where they could be counted.
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
class Pair:
    """An item and what it is like: another item, or a row that was trained on."""

    item: str
    like: str
    likeness: float


@dataclass(frozen=True, kw_only=True)
class SuiteReport:
    """The whole suite.

    ``not_compared`` counts the items for which the search for near copies ended early, and
    ``not_compared_with_training`` those for which the one among the training rows did.
    """

    groups: tuple[GroupReport, ...]
    duplicates: tuple[Pair, ...]
    near_duplicates: tuple[Pair, ...]
    trained_on: tuple[Pair, ...]
    nearly_trained_on: tuple[Pair, ...]
    not_compared: int
    not_compared_with_training: int

    @property
    def found(self) -> bool:
        """Whether there is something to mend."""
        return bool(
            self.duplicates or self.near_duplicates or self.trained_on or self.nearly_trained_on
        )

    @property
    def sound(self) -> bool:
        """Whether all was looked at, and there is nothing to mend."""
        return not (self.found or self.not_compared or self.not_compared_with_training)


def check_suite(
    items: Sequence[Item],
    trained: Sequence[Conversation] = (),
    assumed: Assumed | None = None,
    count_tokens: Callable[[str], int] | None = None,
    budget: int = MOST_COMPARISONS,
) -> SuiteReport:
    """Look a suite over.

    Prompts are the same if they differ in case and spacing alone, and near if their word 3-grams
    are (``likeness``) and their system turns are the same. Near items of one cluster are no fault:
    the cluster tells that they belong together.

    Args:
        items: The suite.
        trained: The conversations of the training data, in the order of the file.
        assumed: What power rests on.
        count_tokens: Counts the tokens of a text, for the lengths.
        budget: The most comparisons of two texts, among the items and with the training rows.
    """
    assumed = assumed or Assumed()
    first: dict[object, str] = {}
    duplicates = []
    for item in items:
        other = first.setdefault(_key(item.prompt), item.id)
        if other != item.id:
            duplicates.append(Pair(item=item.id, like=other, likeness=1.0))
    repeated = {pair.item for pair in duplicates}
    distinct = [item for item in items if item.id not in repeated]
    near, unseen = _near_duplicates(distinct, budget)
    same, alike, unseen_rows = _overlap(distinct, trained, budget)
    counted = without_duplicates(items)
    return SuiteReport(
        groups=tuple(
            _group(name, [item for item in counted if item.group == name], assumed, count_tokens)
            for name in sorted({item.group for item in counted})
        ),
        duplicates=tuple(duplicates),
        near_duplicates=near,
        trained_on=same,
        nearly_trained_on=alike,
        not_compared=unseen,
        not_compared_with_training=unseen_rows,
    )


def _key(prompt: Conversation) -> object:
    return tuple((turn.role, " ".join(turn.content.casefold().split())) for turn in prompt)


def _system(prompt: Conversation) -> object:
    return _key(tuple(turn for turn in prompt if turn.role == "system"))


def _text(prompt: Conversation) -> str:
    """Everything but the system turn: as all items share it, it would make all of them alike."""
    return "\n".join(turn.content for turn in prompt if turn.role != "system")


def _near_duplicates(items: Sequence[Item], budget: int) -> tuple[tuple[Pair, ...], int]:
    """Return the near copies, and for how many items the search ended early."""
    index = NearDuplicateIndex([shingles(_text(item.prompt)) for item in items], budget)
    pairs = []
    for number, item in enumerate(items):
        for other, likeness in index.find(index.texts[number]):
            like = items[other]
            together = item.cluster and item.cluster == like.cluster
            if not together and _system(item.prompt) == _system(like.prompt):
                pairs.append(Pair(item=item.id, like=like.id, likeness=likeness))
                break  # one is enough to say what to mend
        index.add(number)
    return tuple(pairs), index.unfinished


def _overlap(
    items: Sequence[Item], trained: Sequence[Conversation], budget: int
) -> tuple[tuple[Pair, ...], tuple[Pair, ...], int]:
    """Return what was trained on, what nearly was, and for how many the search ended early."""
    prompts = [row[:-1] for row in trained]
    rows: dict[object, int] = {}
    for number, prompt in enumerate(prompts):
        rows.setdefault(_key(prompt), number)
    index = NearDuplicateIndex([shingles(_text(prompt)) for prompt in prompts], budget)
    for number in rows.values():
        index.add(number)
    same, alike = [], []
    for item in items:
        if (row := rows.get(_key(item.prompt))) is not None:
            same.append(Pair(item=item.id, like=f"training row {row + 1}", likeness=1.0))
            continue
        for number, likeness in index.find(shingles(_text(item.prompt))):
            if _system(item.prompt) == _system(prompts[number]):
                like = f"training row {number + 1}"
                alike.append(Pair(item=item.id, like=like, likeness=likeness))
                break
    return tuple(same), tuple(alike), index.unfinished


def _group(
    name: str,
    items: Sequence[Item],
    assumed: Assumed,
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
        detectable_share=detectable_share(independent, assumed.discordant),
        detectable_loss=detectable_mean(independent, assumed.deviation),
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
