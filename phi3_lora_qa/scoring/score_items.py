"""Scores of items under one model; the trouble of one item stays with that item."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import DataError, InputError, escape, shortage
from phi3_lora_qa.models.threads import fitting_threads
from phi3_lora_qa.scoring.batch_engine import Engine
from phi3_lora_qa.scoring.batches import fitting_tokens, plan
from phi3_lora_qa.scoring.decoding import answer_text, stop_tokens
from phi3_lora_qa.scoring.item_outputs import ItemOutput
from phi3_lora_qa.scoring.long_context import read_stretched, switch
from phi3_lora_qa.scoring.prepacked_linear import packed_products
from phi3_lora_qa.scoring.prompts import PromptedItem, prompt_item, stop_token
from phi3_lora_qa.scoring.score_cache import ScoreCache

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How to score. None of it but ``max_new_tokens`` changes a score beyond rounding.

    ``max_new_tokens`` bounds the answers; None for as many as `prompts.answer_limit` gives them.
    ``token_budget`` bounds the tokens of a batch, answers counted; None for as many as there is
    memory for. ``seed`` is what any randomness inside a model is drawn from (a plain Phi-3 in eval
    mode has none).
    """

    max_new_tokens: int | None = None
    token_budget: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """What one model made of one item.

    ``loss`` is the mean over the ``tokens`` of the reference, the stop token included, in nats;
    NaN where it could not be computed. ``answer`` is the greedy answer without special tokens,
    ``stopped`` whether it ended by itself. A score with an ``error`` must never count as a pass.
    Where a model in this process was asked, ``choice`` is the place of the likeliest of the item's
    options (-1 without options), ``divergence`` and ``agreement`` say how far it is from the base
    along the reference (NaN where nothing was compared), and ``reading`` is what stands behind the
    score in tokens.
    """

    item_id: str
    loss: float
    tokens: int
    answer: str
    stopped: bool
    error: str = ""
    choice: int = -1
    divergence: float = field(default=math.nan, compare=False)  # NaN is like no other NaN
    agreement: float = field(default=math.nan, compare=False)
    reading: ItemOutput | None = field(default=None, compare=False, repr=False)


def score_items(  # noqa: PLR0913 - the last two are a caller's choice
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    items: Sequence[Item],
    options: ScoringOptions,
    progress: Callable[[int, int], None] | None = None,
    *,
    base: Sequence[ItemScore] = (),
    kept: ScoreCache | None = None,
) -> tuple[ItemScore, ...]:
    """Score every item under a model: the loss of its reference and the answer given.

    Args:
        model: A causal language model, plain or with a PEFT adapter. It is put in eval mode.
        tokenizer: The base's, with its chat template.
        items: With ids that differ.
        options: Limits of answers and batches.
        progress: Called with (items done, all items), first with 0 done.
        base: For a tuned model, the base's scores of the same items. How far the two are apart
            is then measured, and answers that both give are read instead of made.
        kept: For a plain base, where earlier readings of this very base lie and new ones go.

    Returns:
        One score for each item, in the items' order. What goes wrong in one item stands in its
        ``error``; nothing is left out.

    Raises:
        InputError: Two items share an id, or an option is no positive number.
        BaseModelError: The tokenizer's chat template cannot be used for any item.
    """
    check_request(items, options)
    stop = stop_token(tokenizer)
    inner = _without_shell(model)
    scores: dict[str, ItemScore] = {}
    prompted = []
    for item in items:
        try:
            prompted.append(_prompt(inner, tokenizer, stop, item, options.max_new_tokens))
        except Exception as error:  # one item's trouble, whatever a template or tokenizer raises
            _require_machine(error)
            scores[item.id] = failed(item.id, 0, error)
    run = _Run(
        inner,
        tokenizer,
        Engine(inner, stop_tokens(inner, stop), prompted),
        {score.item_id: score.reading for score in base if score.reading},
    )
    known = {own.id: kept.find(own) for own in prompted} if kept else {}
    scores |= {own.id: _scored(run, own, found) for own in prompted if (found := known.get(own.id))}
    asked = [own for own in prompted if own.id not in scores]
    report = _rising(progress, len(items))
    report(len(scores))
    batches = plan(asked, options.token_budget or fitting_tokens(inner), switch(inner))
    if batches:
        with _quiet_inference(model, options.seed), packed_products(inner):
            for batch in batches:
                tell = _within(report, len(scores), len(batch))
                scores |= {score.item_id: score for score in _score_batch(run, batch, tell)}
                report(len(scores))
    if kept:
        sound = {score.item_id: score.reading for score in scores.values() if not score.error}
        kept.add([(own, reading) for own in asked if (reading := sound.get(own.id))])
    return tuple(scores[item.id] for item in items)


def _rising(progress: Callable[[int, int], None] | None, total: int) -> Callable[[float], None]:
    """Return what reports how many items are done, each number at most once."""
    last = -1

    def report(done: float) -> None:
        nonlocal last
        if progress and int(done) > last:
            last = int(done)
            progress(last, total)

    return report


def _within(report: Callable[[float], None], done: int, size: int) -> Callable[[float], None]:
    """Return what reports the share of a batch that is done, as items."""
    return lambda share: report(done + share * size)


@dataclass(frozen=True)
class _Run:
    """What stays the same for every batch."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    engine: Engine
    others: Mapping[str, ItemOutput]


def _score_batch(
    run: _Run, batch: Sequence[PromptedItem], tell: Callable[[float], None]
) -> list[ItemScore]:
    """Score a batch; if it breaks, each half alone, so that only the broken item suffers."""
    stops, most = run.engine.stops, switch(run.model)
    try:
        if most is not None and batch[0].length > most:
            readings = [read_stretched(run.model, item, stops, run.others) for item in batch]
        else:
            readings = run.engine.run(batch, run.others, tell)
    except Exception as error:  # whatever torch raises, out of memory too
        if len(batch) == 1:
            _require_machine(error)
            return [failed(batch[0].id, len(batch[0].reference), error)]
        half = len(batch) // 2
        return [
            score
            for some in (batch[:half], batch[half:])
            for score in _score_batch(run, some, lambda share: None)
        ]
    return [_scored(run, item, reading) for item, reading in zip(batch, readings, strict=True)]


def _require_machine(error: Exception) -> None:
    """Let a machine that is short of memory not count against the model."""
    if short := shortage(error):
        raise short from error


def _scored(run: _Run, item: PromptedItem, reading: ItemOutput) -> ItemScore:
    stopped = bool(reading.answer) and reading.answer[-1] in run.engine.stops
    score = finished(
        item, reading.loss, answer_text(run.tokenizer, reading.answer), stopped=stopped
    )
    likeliest = max(range(len(item.choices)), key=reading.choices.__getitem__, default=-1)
    return replace(
        score,
        reading=reading,
        choice=likeliest,
        divergence=reading.divergence,
        agreement=reading.agreement,
    )


def finished(item: PromptedItem, loss: float, answer: str, *, stopped: bool) -> ItemScore:
    """Return an item's score; a loss that is no finite number is an error."""
    score = ItemScore(
        item_id=item.id, loss=loss, tokens=len(item.reference), answer=answer, stopped=stopped
    )
    if math.isfinite(loss):
        return score
    return replace(
        score, error=f"the loss is {loss}; look for NaN or infinite weights in the adapter"
    )


def failed(item_id: str, tokens: int, error: Exception) -> ItemScore:
    """Return the score of an item that could not be scored."""
    return ItemScore(
        item_id=item_id,
        loss=math.nan,
        tokens=tokens,
        answer="",
        stopped=False,
        error=f"{type(error).__name__}: {escape(str(error))}",
    )


def check_request(items: Sequence[Item], options: ScoringOptions) -> None:
    """Refuse what cannot be scored, whatever runs the model.

    Raises:
        InputError: Two items share an id, or an option is no positive number.
    """
    given = (options.max_new_tokens, options.token_budget)
    if any(number is not None and number < 1 for number in given):
        raise InputError(
            f"max_new_tokens is {options.max_new_tokens} and token_budget {options.token_budget}; "
            "give positive numbers"
        )
    if len({item.id for item in items}) < len(items):
        raise InputError("two items share an id; give every item an id of its own")


def _prompt(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    stop: int,
    item: Item,
    max_new_tokens: int | None,
) -> PromptedItem:
    prompted = prompt_item(tokenizer, stop, item, max_new_tokens, stop_tokens(model, stop))
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and prompted.length > positions:
        raise DataError(
            f"prompt and answer need {prompted.length} tokens and the base has {positions} "
            "positions; shorten the item"
        )
    return prompted


def _without_shell(model: "PreTrainedModel | PeftModel") -> "PreTrainedModel":
    """Return the model below PEFT's shell; the adapter's layers lie within it."""
    shell: Any = model
    inner: PreTrainedModel = shell.get_base_model() if hasattr(shell, "get_base_model") else shell
    return inner


@contextmanager
def _quiet_inference(model: "PreTrainedModel | PeftModel", seed: int) -> Iterator[None]:
    """Eval mode, no gradients, and a random state of our own that leaves the caller's alone."""
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    with (
        fitting_threads(model),
        torch.inference_mode(),
        torch.random.fork_rng(devices=devices),
    ):
        torch.manual_seed(seed)
        yield
