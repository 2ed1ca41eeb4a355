"""What a suite can decide, and what is wrong with it: copies, and what was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from phi3_lora_qa.data.assumed import Assumed
from phi3_lora_qa.data.chat import Item, Message
from phi3_lora_qa.data.likeness import Index, grams
from phi3_lora_qa.data.power import detectable_mean, detectable_share, independent_items
from phi3_lora_qa.data.suite import without_copies

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
    """The whole suite. ``searched`` is False where the search for near copies ended early."""

    groups: tuple[GroupReport, ...]
    duplicates: tuple[Pair, ...]
    near_duplicates: tuple[Pair, ...]
    trained_on: tuple[Pair, ...]
    nearly_trained_on: tuple[Pair, ...]
    searched: bool

    @property
    def sound(self) -> bool:
        """Whether there is nothing to mend."""
        return not (
            self.duplicates or self.near_duplicates or self.trained_on or self.nearly_trained_on
        )


def check_suite(
    items: Sequence[Item],
    trained: Sequence[Conversation] = (),
    assumed: Assumed | None = None,
    count_tokens: Callable[[str], int] | None = None,
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
    near, all_of_them = _near_duplicates(distinct)
    same, alike, all_of_those = _overlap(distinct, trained)
    counted = without_copies(items)
    return SuiteReport(
        groups=tuple(
            _group(name, [item for item in counted if item.group == name], assumed, count_tokens)
            for name in sorted({item.group for item in counted})
        ),
        duplicates=tuple(duplicates),
        near_duplicates=near,
        trained_on=same,
        nearly_trained_on=alike,
        searched=all_of_them and all_of_those,
    )


def _key(prompt: Conversation) -> object:
    return tuple((turn.role, " ".join(turn.content.casefold().split())) for turn in prompt)


def _system(prompt: Conversation) -> object:
    return _key(tuple(turn for turn in prompt if turn.role == "system"))


def _text(prompt: Conversation) -> str:
    """Everything but the system turn: as all items share it, it would make all of them alike."""
    return "\n".join(turn.content for turn in prompt if turn.role != "system")


def _near_duplicates(items: Sequence[Item]) -> tuple[tuple[Pair, ...], bool]:
    index = Index([grams(_text(item.prompt)) for item in items])
    pairs = []
    for number, item in enumerate(items):
        for other, likeness in index.find(index.known[number]):
            like = items[other]
            together = item.cluster and item.cluster == like.cluster
            if not together and _system(item.prompt) == _system(like.prompt):
                pairs.append(Pair(item=item.id, like=like.id, likeness=likeness))
                break  # one is enough to say what to mend
        index.add(number)
    return tuple(pairs), index.budget > 0


def _overlap(
    items: Sequence[Item], trained: Sequence[Conversation]
) -> tuple[tuple[Pair, ...], tuple[Pair, ...], bool]:
    """Return the items that were trained on, those that nearly were, and whether all was seen."""
    prompts = [row[:-1] for row in trained]
    rows: dict[object, int] = {}
    for number, prompt in enumerate(prompts):
        rows.setdefault(_key(prompt), number)
    index = Index([grams(_text(prompt)) for prompt in prompts])
    for number in rows.values():
        index.add(number)
    same, alike = [], []
    for item in items:
        if (row := rows.get(_key(item.prompt))) is not None:
            same.append(Pair(item=item.id, like=f"training row {row + 1}", likeness=1.0))
            continue
        for number, likeness in index.find(grams(_text(item.prompt))):
            if _system(item.prompt) == _system(prompts[number]):
                like = f"training row {number + 1}"
                alike.append(Pair(item=item.id, like=like, likeness=likeness))
                break
    return tuple(same), tuple(alike), index.budget > 0


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
