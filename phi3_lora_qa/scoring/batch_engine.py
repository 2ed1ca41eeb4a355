"""The fast engine: it scores a batch of items in one pass, and decodes their answers from there.

The pass over prompt and reference gives the reference's loss, and the greedy token at each of its
positions. As far as the two agree, the reference is the model's own greedy answer, at no extra
cost. If another answer is likely (for a tuned model, the base's), it serves as a draft: it is read
in one more pass and accepted as far as the model agrees. The rest is decoded token by token, and
finished rows leave the batch.

Decoding by verifying a draft: Stern et al., NeurIPS 2018, arXiv 1811.03115.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from phi3_lora_qa.progress import Progress
from phi3_lora_qa.scoring.item_outputs import BaseOutputs, ItemOutput, score_references
from phi3_lora_qa.scoring.kv_cache import KVCache, Prefix, Span, run_decoder
from phi3_lora_qa.scoring.losses import greedy_tokens, logit_blocks, token_losses
from phi3_lora_qa.scoring.prompts import TokenizedItem
from phi3_lora_qa.scoring.shared_prefixes import shared_prefixes
from phi3_lora_qa.setting_specs import CPU

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Tokens = Sequence[int]

PREFILL_TOKENS = 768
"""Tokens of a prefill pass, unless one row has more: enough for full speed, and few enough that the
activations stay in the processor's cache. Decoding runs all rows together."""
GPU_PREFILL_TOKENS = 8192
"""The same on a GPU, which needs more rows for its full speed."""
FIRST_DRAFT_TOKENS = 4
"""How many draft tokens are verified first; the number doubles each time all are accepted."""


@dataclass
class _Row:
    """An item in progress: ``answer`` grows until it is finished; its last token is unread."""

    item: TokenizedItem
    answer: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def read(self) -> int:
        """The number of slots of the KV cache that contain this row's tokens."""
        return len(self.item.prompt) + len(self.answer) - 1

    def append(self, token: int, stops: frozenset[int]) -> None:
        self.answer.append(token)
        self.finished = token in stops or len(self.answer) >= self.item.answer_limit

    def accept_matching(self, draft: Tokens, predicted: Tokens, stops: frozenset[int]) -> None:
        """Append predicted tokens along a draft, up to the first one that differs from it."""
        for token, drafted in zip(predicted, draft, strict=True):
            if self.finished:
                return
            self.append(token, stops)
            if token != drafted:
                return


@dataclass
class _TokenCount:
    """Reports how many tokens of a batch are done: tokens that were read, and answers' tokens."""

    rows: Sequence[_Row]
    on_progress: Progress
    read: int = 0

    def __call__(self, tokens: int = 0) -> None:
        """Report, after ``tokens`` more of the prompts and references were read."""
        self.read += tokens
        limits = [row.item.answer_limit for row in self.rows]
        answered = sum(
            limit if row.finished else len(row.answer)
            for row, limit in zip(self.rows, limits, strict=True)
        )
        to_read = sum(len(row.item.prompt) + len(row.item.reference) for row in self.rows)
        self.on_progress("tokens", self.read + answered, to_read + sum(limits))


class BatchEngine:
    """Runs batches through one model.

    Args:
        model: A causal language model without PEFT's outer wrapper, in eval mode, of a class for
            which `engine_probe.fast_engine_fault` finds no fault.
        stops: The tokens that end an answer.
        items: All items that will be scored: a prefix that several prompts share is read once.
    """

    def __init__(
        self, model: "PreTrainedModel", stops: frozenset[int], items: Sequence[TokenizedItem]
    ) -> None:
        self._model, self._stops = model, stops
        lengths = shared_prefixes([item.prompt for item in items])
        self._shared = {
            item.id: item.prompt[:length] for item, length in zip(items, lengths, strict=True)
        }
        self._prefixes: dict[tuple[int, ...], Prefix] = {(): Prefix()}

    def run(
        self, batch: Sequence[TokenizedItem], base_outputs: BaseOutputs, on_progress: Progress
    ) -> list[ItemOutput]:
        """Return the model's output for each item.

        Args:
            batch: At least one item, the longest first.
            base_outputs: The base's outputs by item id. Their answers are drafts, which change the
                amount of work and never the answers.
            on_progress: Called with the number of finished tokens of the batch.
        """
        rows = [_Row(item) for item in batch]
        count = _TokenCount(rows, on_progress)
        kv_cache = self._new_cache([item.length for item in batch])
        hidden = self._read_items(kv_cache, batch, count)
        blocks = logit_blocks(self._model, hidden)
        scored = score_references(blocks, batch, base_outputs)
        for row, (_, predicted) in zip(rows, scored, strict=True):
            row.accept_matching(row.item.reference, predicted, self._stops)
        choices = self._read_choices(kv_cache, batch)
        self._verify_drafts(kv_cache, rows, base_outputs)
        self._decode(kv_cache, rows, count)
        return [
            replace(output, answer=tuple(row.answer), choices=likelihoods)
            for row, (output, _), likelihoods in zip(rows, scored, choices, strict=True)
        ]

    def _prefix(self, item: TokenizedItem) -> Prefix:
        """Return the prefix that an item's prompt shares with others; read on first use."""
        shared = self._shared[item.id]
        if shared not in self._prefixes:
            kv_cache = self._new_cache([len(shared)])
            self._read(kv_cache, [Span(row=0, start=0, tokens=len(shared))], [shared])
            self._prefixes[shared] = kv_cache.copy_prefix(0, len(shared))
        return self._prefixes[shared]

    def _read_items(
        self, kv_cache: KVCache, batch: Sequence[TokenizedItem], count: Callable[[int], None]
    ) -> "Tensor":
        """Read prompts and references; return the states that predict the references' tokens."""
        import torch

        prefixes = [self._prefix(item) for item in batch]
        for row, prefix in enumerate(prefixes):
            kv_cache.load_prefix(row, prefix)
        whole = [item.prompt + item.reference[:-1] for item in batch]
        tokens = [own[prefix.tokens :] for own, prefix in zip(whole, prefixes, strict=True)]
        spans = [
            Span(row=row, start=prefix.tokens, tokens=len(own))
            for row, (prefix, own) in enumerate(zip(prefixes, tokens, strict=True))
        ]
        hidden = self._read(kv_cache, spans, tokens, count)
        # The token before the first one of the reference predicts it, and so on.
        return torch.cat(
            [
                own[-len(item.reference) :]
                for item, own in zip(batch, hidden.split(list(map(len, tokens))), strict=True)
            ]
        )

    def _read_choices(
        self, kv_cache: KVCache, batch: Sequence[TokenizedItem]
    ) -> list[tuple[float, ...]]:
        """Return the log-likelihoods of each item's options, read after its cached prompt."""
        import torch

        likelihoods: list[tuple[float, ...]] = []
        for number, item in enumerate(batch):
            if not item.choices:
                likelihoods.append(())
                continue
            # The prompt's last token is read again, because it predicts the first one of an option.
            prompt = kv_cache.copy_prefix(number, len(item.prompt) - 1)
            choices_cache = self._new_cache([item.length] * len(item.choices))
            for row in range(len(item.choices)):
                choices_cache.load_prefix(row, prompt)
            sizes = [len(choice) for choice in item.choices]
            spans = [
                Span(row=row, start=prompt.tokens, tokens=size) for row, size in enumerate(sizes)
            ]
            tokens = [(item.prompt[-1], *choice[:-1]) for choice in item.choices]
            hidden = self._read(choices_cache, spans, tokens)
            targets = torch.tensor([token for choice in item.choices for token in choice])
            blocks = logit_blocks(self._model, hidden)
            losses = token_losses(blocks, targets).cpu().double()
            likelihoods.append(tuple(-float(own.sum()) for own in losses.split(sizes)))
        return likelihoods

    def _verify_drafts(
        self, kv_cache: KVCache, rows: Sequence[_Row], base_outputs: BaseOutputs
    ) -> None:
        """Continue answers along the base's if these agree with all tokens so far.

        The longer two answers have agreed, the longer they are likely to, so drafts get longer.
        """
        size = FIRST_DRAFT_TOKENS
        while True:
            drafts: dict[int, Tokens] = {}
            for number, row in enumerate(rows):
                known = base_outputs.get(row.item.id)
                answer, done = known.answer if known else (), len(row.answer)
                draft = answer[done : min(done + size, row.item.answer_limit)]
                if draft and not row.finished and list(answer[:done]) == row.answer:
                    drafts[number] = draft
            if not drafts:
                return
            self._verify(kv_cache, rows, drafts)
            size *= 2

    def _verify(
        self, kv_cache: KVCache, rows: Sequence[_Row], drafts: Mapping[int, Tokens]
    ) -> None:
        """Read drafts, by the rows' numbers, and append the tokens that the model predicts too."""
        tokens = [(rows[number].answer[-1], *draft[:-1]) for number, draft in drafts.items()]
        spans = [
            Span(row=number, start=rows[number].read, tokens=len(draft))
            for number, draft in drafts.items()
        ]
        hidden = self._read(kv_cache, spans, tokens)
        predicted = greedy_tokens(logit_blocks(self._model, hidden))
        sizes = [span.tokens for span in spans]
        for span, own in zip(spans, predicted.split(sizes), strict=True):
            rows[span.row].accept_matching(drafts[span.row], own.tolist(), self._stops)

    def _decode(self, kv_cache: KVCache, rows: Sequence[_Row], count: Callable[[], None]) -> None:
        """Decode the rest token by token; unfinished rows are kept at the front of the cache."""
        import torch

        active = list(rows)
        while True:
            for number in reversed(range(len(active))):
                if active[number].finished:
                    last = active.pop()
                    if number < len(active):
                        kv_cache.move_row(len(active), number)
                        active[number] = last
            if not active:
                return
            kv_cache.set_step([row.read for row in active])
            tokens = torch.tensor([row.answer[-1:] for row in active])
            positions = torch.tensor([[row.read] for row in active])
            hidden = run_decoder(self._model, kv_cache, tokens, positions)
            predicted = greedy_tokens(logit_blocks(self._model, hidden[:, 0]))
            for row, token in zip(active, predicted.tolist(), strict=True):
                row.append(token, self._stops)
            count()

    def _read(
        self,
        kv_cache: KVCache,
        spans: Sequence[Span],
        tokens: Sequence[Tokens],
        count: Callable[[int], None] = lambda tokens: None,
    ) -> "Tensor":
        """Read tokens of several rows; return their last hidden states, (tokens, hidden size)."""
        import torch

        states = []
        is_on_cpu = self._model.device.type == CPU
        most = PREFILL_TOKENS if is_on_cpu else GPU_PREFILL_TOKENS
        for start, end in _passes([span.tokens for span in spans], most):
            kv_cache.set_spans(spans[start:end])
            positions = [torch.arange(span.start, span.end) for span in spans[start:end]]
            ids = torch.tensor([token for own in tokens[start:end] for token in own])
            hidden = run_decoder(self._model, kv_cache, ids[None], torch.cat(positions)[None])
            states.append(hidden[0])
            count(len(ids))
        return torch.cat(states)

    def _new_cache(self, lengths: Sequence[int]) -> KVCache:
        return KVCache(lengths, getattr(self._model.config, "sliding_window", None))


def _passes(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the end index of the spans that are read in one pass.

    Args:
        sizes: The tokens of each span.
        most: The most tokens of a pass, unless one span has more.
    """
    start = total = 0
    for end, size in enumerate(sizes):
        if end > start and total + size > most:
            yield start, end
            start, total = end, 0
        total += size
    yield start, len(sizes)
