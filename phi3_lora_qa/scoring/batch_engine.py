"""A batch of items under a model: one pass gives the losses, and answers go on from it.

Reading prompt and reference gives the reference's loss, and at each of its tokens the one that the
model would have said. As far as the two agree, the reference is the model's own greedy answer, and
costs nothing more. Where another answer is likely (the base's, for a tuned model), it is read in
one more pass and kept as far as it agrees. Only from there on tokens are made one by one, and a row
that has ended leaves the batch.

Greedy decoding by checking a guess: Stern et al., NeurIPS 2018, arXiv 1811.03115.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.scoring.engine_probe import require_engine_fits
from phi3_lora_qa.scoring.item_outputs import ItemOutput, score_references
from phi3_lora_qa.scoring.kv_cache import KeyValues, Prefix, Span, run_decoder
from phi3_lora_qa.scoring.losses import likeliest, token_losses
from phi3_lora_qa.scoring.prompts import PromptedItem
from phi3_lora_qa.scoring.shared_prefixes import shared_prefixes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Tokens = Sequence[int]

READ_AT_ONCE = 768
"""Tokens of a pass that reads, unless one row has more: enough for full speed, and few enough for
what passes between the layers to stay in the cache. Decoding takes all rows together."""
FIRST_GUESS = 4
"""So many tokens of a likely answer are read first, and twice as many each time that they hold."""


@dataclass
class _Row:
    """An item on its way: ``answer`` grows until it ends; its last token is still to be read."""

    item: PromptedItem
    answer: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def read(self) -> int:
        """How many positions hold what belongs to this row."""
        return len(self.item.prompt) + len(self.answer) - 1

    def say(self, token: int, stops: frozenset[int]) -> None:
        self.answer.append(token)
        self.ended = token in stops or len(self.answer) >= self.item.answer_limit

    def follow(self, guess: Tokens, said: Tokens, stops: frozenset[int]) -> None:
        """Take what the model says along a guess, up to where it says something else."""
        for token, guessed in zip(said, guess, strict=True):
            if self.ended:
                return
            self.say(token, stops)
            if token != guessed:
                return


@dataclass
class _Meter:
    """Tells how much of a batch is done, by its tokens: those to read, and those of answers."""

    rows: Sequence[_Row]
    tell: Callable[[float], None]
    read: int = 0

    def __call__(self, tokens: int = 0) -> None:
        """So many of the batch's own tokens were read; what was said, the rows know."""
        self.read += tokens
        limits = [row.item.answer_limit for row in self.rows]
        said = sum(
            limit if row.ended else len(row.answer)
            for row, limit in zip(self.rows, limits, strict=True)
        )
        to_read = sum(len(row.item.prompt) + len(row.item.reference) for row in self.rows)
        self.tell((self.read + said) / (to_read + sum(limits)))


class Engine:
    """Runs batches through one model.

    Args:
        model: A causal language model without PEFT's outer shell, in eval mode.
        stops: The tokens that end an answer.
        items: All that will come: what several prompts begin with is read once.

    Raises:
        IncompatibleLibraryError: The installed transformers does not let it run the model.
    """

    def __init__(
        self, model: "PreTrainedModel", stops: frozenset[int], items: Sequence[PromptedItem]
    ) -> None:
        kind: Any = type(model)
        require_engine_fits(kind)
        self._model, self.stops = model, stops
        lengths = shared_prefixes([item.prompt for item in items])
        self._shared = {
            item.id: item.prompt[:length] for item, length in zip(items, lengths, strict=True)
        }
        self._prefixes: dict[tuple[int, ...], Prefix] = {(): Prefix()}

    def run(
        self,
        batch: Sequence[PromptedItem],
        others: Mapping[str, ItemOutput],
        tell: Callable[[float], None] = lambda share: None,
    ) -> list[ItemOutput]:
        """Return what the model makes of each item.

        Args:
            batch: At least one item, the longest first.
            others: By id, what another model made of the items. Its answers change the work that
                is done and never the answer.
            tell: Called with the share of the batch that is done, from 0 to 1.
        """
        rows = [_Row(item) for item in batch]
        meter = _Meter(rows, tell)
        store = self._store([item.length for item in batch])
        hidden = self._read_items(store, batch, meter)
        readings = score_references(self._model, hidden, batch, others)
        for row, (_, said) in zip(rows, readings, strict=True):
            row.follow(row.item.reference, said, self.stops)
        choices = self._read_choices(store, batch)
        self._read_guesses(store, rows, others)
        self._decode(store, rows, meter)
        return [
            replace(reading, answer=tuple(row.answer), choices=likely)
            for row, (reading, _), likely in zip(rows, readings, choices, strict=True)
        ]

    def _prefix(self, item: PromptedItem) -> Prefix:
        """What an item's prompt shares with others, read when it is first needed."""
        shared = self._shared[item.id]
        if shared not in self._prefixes:
            store = self._store([len(shared)])
            self._read(store, [Span(row=0, start=0, tokens=len(shared))], [shared])
            self._prefixes[shared] = store.prefix(0, len(shared))
        return self._prefixes[shared]

    def _read_items(
        self, store: KeyValues, batch: Sequence[PromptedItem], meter: Callable[[int], None]
    ) -> "Tensor":
        """Read prompts and references; return the states that predict the references' tokens."""
        import torch

        prefixes = [self._prefix(item) for item in batch]
        for number, prefix in enumerate(prefixes):
            store.begin(number, prefix)
        whole = [item.prompt + item.reference[:-1] for item in batch]
        tokens = [own[prefix.tokens :] for own, prefix in zip(whole, prefixes, strict=True)]
        spans = [
            Span(row=number, start=prefix.tokens, tokens=len(own))
            for number, (prefix, own) in enumerate(zip(prefixes, tokens, strict=True))
        ]
        hidden = self._read(store, spans, tokens, meter)
        # The token before the first one of the reference predicts it, and so on to the end.
        return torch.cat(
            [
                own[-len(item.reference) :]
                for item, own in zip(batch, hidden.split(list(map(len, tokens))), strict=True)
            ]
        )

    def _read_choices(
        self, store: KeyValues, batch: Sequence[PromptedItem]
    ) -> list[tuple[float, ...]]:
        """Read each item's options behind what has been read of its prompt."""
        import torch

        found: list[tuple[float, ...]] = []
        for number, item in enumerate(batch):
            if not item.choices:
                found.append(())
                continue
            # All but the prompt's last token is known; that one predicts the first of an option.
            known = store.prefix(number, len(item.prompt) - 1)
            own = self._store([item.length] * len(item.choices))
            for row in range(len(item.choices)):
                own.begin(row, known)
            sizes = [len(choice) for choice in item.choices]
            spans = [
                Span(row=row, start=known.tokens, tokens=size) for row, size in enumerate(sizes)
            ]
            tokens = [(item.prompt[-1], *choice[:-1]) for choice in item.choices]
            hidden = self._read(own, spans, tokens)
            targets = torch.tensor([token for choice in item.choices for token in choice])
            losses = token_losses(self._model, hidden, targets.to(hidden.device)).double()
            found.append(tuple(-float(own.sum()) for own in losses.split(sizes)))
        return found

    def _read_guesses(
        self, store: KeyValues, rows: Sequence[_Row], others: Mapping[str, ItemOutput]
    ) -> None:
        """Read on along the other model's answers where they agree with all that was said.

        The further two answers have agreed, the further they are likely to: more is read each time.
        """
        size = FIRST_GUESS
        while True:
            going: dict[int, Tokens] = {}
            for number, row in enumerate(rows):
                guess = others[row.item.id].answer if row.item.id in others else ()
                known = len(row.answer)
                ahead = guess[known : min(known + size, row.item.answer_limit)]
                if ahead and not row.ended and list(guess[:known]) == row.answer:
                    going[number] = ahead
            if not going:
                return
            self._follow(store, rows, going)
            size *= 2

    def _follow(
        self, store: KeyValues, rows: Sequence[_Row], guesses: Mapping[int, Tokens]
    ) -> None:
        """Read guesses, by the rows' numbers, and take of each what the model says too."""
        tokens = [(rows[number].answer[-1], *ahead[:-1]) for number, ahead in guesses.items()]
        spans = [
            Span(row=number, start=rows[number].read, tokens=len(ahead))
            for number, ahead in guesses.items()
        ]
        said = likeliest(self._model, self._read(store, spans, tokens))
        for span, own in zip(spans, said.split([span.tokens for span in spans]), strict=True):
            rows[span.row].follow(guesses[span.row], own.tolist(), self.stops)

    def _decode(self, store: KeyValues, rows: Sequence[_Row], meter: Callable[[], None]) -> None:
        """Make the rest token by token; the rows that go on stay the first ones of the store."""
        import torch

        going = list(rows)
        while True:
            for number in reversed(range(len(going))):
                if going[number].ended:
                    last = going.pop()
                    if number < len(going):
                        store.move(len(going), number)
                        going[number] = last
            if not going:
                return
            store.aim_step([row.read for row in going])
            tokens = torch.tensor([row.answer[-1:] for row in going])
            positions = torch.tensor([[row.read] for row in going])
            hidden = run_decoder(self._model, store, tokens, positions)
            said = likeliest(self._model, hidden[:, 0])
            for row, token in zip(going, said.tolist(), strict=True):
                row.say(token, self.stops)
            meter()

    def _read(
        self,
        store: KeyValues,
        spans: Sequence[Span],
        tokens: Sequence[Tokens],
        meter: Callable[[int], None] = lambda tokens: None,
    ) -> "Tensor":
        """Read the tokens of several rows; return their last hidden states, (all, hidden size)."""
        import torch

        found = []
        for start, end in _parts([span.tokens for span in spans]):
            store.aim(spans[start:end])
            positions = [torch.arange(span.start, span.end) for span in spans[start:end]]
            ids = torch.tensor([token for own in tokens[start:end] for token in own])
            found.append(run_decoder(self._model, store, ids[None], torch.cat(positions)[None])[0])
            meter(len(ids))
        return torch.cat(found)

    def _store(self, longest: Sequence[int]) -> KeyValues:
        return KeyValues(longest, getattr(self._model.config, "sliding_window", None))


def _parts(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where each run of rows begins and ends that are read in one pass."""
    start = total = 0
    for end, size in enumerate(sizes):
        if end > start and total + size > READ_AT_ONCE:
            yield start, end
            start, total = end, 0
        total += size
    yield start, len(sizes)
