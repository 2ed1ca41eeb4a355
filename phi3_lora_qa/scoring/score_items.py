"""Score items under one model; an item's error stays with that item."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import DataError, shortage
from phi3_lora_qa.models.stop_tokens import stop_tokens
from phi3_lora_qa.models.threads import fitting_threads
from phi3_lora_qa.progress import Progress, silent
from phi3_lora_qa.scoring.batch_engine import BatchEngine
from phi3_lora_qa.scoring.batches import default_token_budget, plan_batches
from phi3_lora_qa.scoring.decoding import decode_answer
from phi3_lora_qa.scoring.device_memory import (
    free_on,
    is_out_of_memory,
    release_unused,
    too_large_alone,
)
from phi3_lora_qa.scoring.engine_choice import PLAIN, choose_engine
from phi3_lora_qa.scoring.item_outputs import BaseOutputs, ItemOutput
from phi3_lora_qa.scoring.item_score import (
    ItemScore,
    ScoringOptions,
    failed_score,
    make_score,
    validate_request,
)
from phi3_lora_qa.scoring.long_context import longrope_threshold, score_long_item
from phi3_lora_qa.scoring.plain_engine import PlainEngine
from phi3_lora_qa.scoring.prepacked_linear import prepack_linear_layers
from phi3_lora_qa.scoring.prompts import TokenizedItem, template_stop_token, tokenize_item
from phi3_lora_qa.scoring.score_cache import ScoreCache

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ItemScore", "ScoringOptions", "score_items"]


def score_items(  # noqa: PLR0913 - the last two are optional
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    items: Sequence[Item],
    options: ScoringOptions,
    progress: Progress = silent,
    *,
    base_scores: Sequence[ItemScore] = (),
    cache: ScoreCache | None = None,
) -> tuple[ItemScore, ...]:
    """Score every item under a model: the loss of its reference, and the model's answer.

    Args:
        model: A causal language model, plain or with a PEFT adapter. It is put in eval mode.
        tokenizer: The base's tokenizer, with its chat template.
        items: Items with unique ids.
        options: Limits of answers and batches, and the engine.
        progress: Called with the number of items done, first with 0.
        base_scores: For a tuned model, the base's scores of the same items. The tuned model is
            compared with them, and answers that both give are verified instead of decoded.
        cache: For a plain base, where its earlier outputs are stored and new ones are added.

    Returns:
        One score per item, in the order of the items. An item that could not be scored has an
        ``error``; none is left out.

    Raises:
        InputError: Two items have the same id, an option is not a positive number, or the engine is
            unknown.
        BaseModelError: The tokenizer's chat template cannot be used for any item.
    """
    validate_request(items, options)
    inner = _without_wrapper(model)
    template_stop = template_stop_token(tokenizer)
    stops = stop_tokens(inner, template_stop)
    tokenize = partial(
        tokenize_item,
        tokenizer,
        template_stop,
        max_new_tokens=options.max_new_tokens,
        stops=stops,
    )
    positions = getattr(inner.config, "max_position_embeddings", None)
    tokenized, scores = _tokenize(items, tokenize, positions)
    base_outputs = {score.item_id: score.output for score in base_scores if score.output}
    engine = _engine(options.engine, inner, stops, tokenized)
    run = _Run(inner, tokenizer, stops, engine, base_outputs)
    cached = {item.id: cache.find(item) for item in tokenized} if cache else {}
    scores |= {
        item.id: _score(run, item, output) for item in tokenized if (output := cached.get(item.id))
    }
    remaining = [item for item in tokenized if item.id not in scores]
    report = _each_number_once(progress, len(items))
    with _quiet_inference(model, options.seed):
        _score_remaining(run, remaining, scores, options.token_budget, report)
    if cache:
        valid = {score.item_id: score.output for score in scores.values() if not score.error}
        cache.add([(item, output) for item in remaining if (output := valid.get(item.id))])
    return tuple(scores[item.id] for item in items)


def _score_remaining(
    run: "_Run",
    items: Sequence[TokenizedItem],
    scores: dict[str, ItemScore],
    token_budget: int | None,
    report: Callable[[float], None],
) -> None:
    """Score the items that are not in ``scores``, batch by batch, and add them.

    If a batch does not fit into the memory, it and all later ones are halved.
    """
    report(len(scores))
    budget = token_budget or default_token_budget(run.model, free_on(run.model.device))
    alone_above = longrope_threshold(run.model)
    waiting = list(plan_batches(items, budget, alone_above))
    if not waiting:
        return
    with run.speedup():
        while waiting:
            batch = waiting[0]
            on_progress = _as_items(report, len(scores), len(batch))
            new = _score_batch(run, batch, on_progress)
            if new is None:
                budget = sum(item.length for item in batch) // 2
                left = [item for part in waiting for item in part]
                waiting = list(plan_batches(left, budget, alone_above))
                continue
            del waiting[0]
            scores |= {score.item_id: score for score in new}
            report(len(scores))


@dataclass(frozen=True)
class _Run:
    """What is the same for every batch."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    stops: frozenset[int]
    engine: BatchEngine | PlainEngine
    base_outputs: BaseOutputs

    @contextmanager
    def speedup(self) -> Iterator[None]:
        """Prepack the linear layers for the fast engine."""
        if isinstance(self.engine, PlainEngine):
            yield
        else:
            with prepack_linear_layers(self.model):
                yield

    def outputs(self, batch: Sequence[TokenizedItem], on_progress: Progress) -> list[ItemOutput]:
        """Return the model's outputs for a batch."""
        threshold = longrope_threshold(self.model)
        is_long = threshold is not None and batch[0].length > threshold
        if is_long and isinstance(self.engine, BatchEngine):
            return [
                score_long_item(self.model, item, self.stops, self.base_outputs) for item in batch
            ]
        return self.engine.run(batch, self.base_outputs, on_progress)


def _engine(
    requested: str,
    model: "PreTrainedModel",
    stops: frozenset[int],
    items: Sequence[TokenizedItem],
) -> BatchEngine | PlainEngine:
    if choose_engine(requested, model).name == PLAIN:
        return PlainEngine(model, stops)
    return BatchEngine(model, stops, items)


def _tokenize(
    items: Sequence[Item], tokenize: Callable[[Item], TokenizedItem], positions: int | None
) -> tuple[list[TokenizedItem], dict[str, ItemScore]]:
    """Return the items as tokens, and the failed scores of those that cannot be tokenized."""
    tokenized, failed = [], {}
    for item in items:
        try:
            own = tokenize(item)
            _require_positions(own, positions)
            tokenized.append(own)
        except Exception as error:  # a template or tokenizer may raise anything for one item
            _raise_if_machine(error)
            failed[item.id] = failed_score(item.id, 0, error)
    return tokenized, failed


def _require_positions(item: TokenizedItem, positions: int | None) -> None:
    if positions is not None and item.length > positions:
        raise DataError(
            f"prompt and answer are too long: they need {item.length} tokens, and the base has "
            f"{positions} positions; shorten the item"
        )


def _each_number_once(progress: Progress, total: int) -> Callable[[float], None]:
    """Return a function that reports how many items are done, each number at most once."""
    last = -1

    def report(done: float) -> None:
        nonlocal last
        if int(done) > last:
            last = int(done)
            progress("scoring", last, total)

    return report


def _as_items(report: Callable[[float], None], done: int, size: int) -> Progress:
    """Return a callback that reports a batch's progress as a number of items."""
    return lambda phase, steps, total: report(done + steps / total * size)


def _score_batch(
    run: _Run, batch: Sequence[TokenizedItem], on_progress: Progress
) -> list[ItemScore] | None:
    """Score a batch; if it fails, score each half, so that only the faulty item fails.

    None if the batch does not fit into the memory; one item that does not is the machine's fault.
    """
    try:
        outputs = run.outputs(batch, on_progress)
    except Exception as error:  # torch may raise anything
        if len(batch) == 1:
            if is_out_of_memory(error):
                raise too_large_alone(batch[0], run.model) from error
            _raise_if_machine(error)
            return [failed_score(batch[0].id, len(batch[0].reference), error)]
        is_too_large = is_out_of_memory(error)
    else:
        return [_score(run, item, output) for item, output in zip(batch, outputs, strict=True)]
    # Only here: until its handler ends, an error keeps the tensors of the failed batch.
    release_unused(run.model.device)
    if is_too_large:
        return None
    half = len(batch) // 2
    parts = [_score_batch(run, part, silent) for part in (batch[:half], batch[half:])]
    return None if None in parts else [score for part in parts if part for score in part]


def _raise_if_machine(error: Exception) -> None:
    """Raise if the machine ran out of memory or disk, which is not the model's fault."""
    if short := shortage(error):
        raise short from error


def _score(run: _Run, item: TokenizedItem, output: ItemOutput) -> ItemScore:
    stopped = bool(output.answer) and output.answer[-1] in run.stops
    score = make_score(
        item, output.loss, decode_answer(run.tokenizer, output.answer), stopped=stopped
    )
    choice = max(range(len(item.choices)), key=output.choices.__getitem__, default=-1)
    return replace(
        score,
        output=output,
        choice=choice,
        divergence=output.divergence,
        agreement=output.agreement,
    )


def _without_wrapper(model: "PreTrainedModel | PeftModel") -> "PreTrainedModel":
    """Return the model inside PEFT's wrapper; it contains the adapter's layers."""
    wrapper: Any = model
    inner: PreTrainedModel = (
        wrapper.get_base_model() if hasattr(wrapper, "get_base_model") else wrapper
    )
    return inner


@contextmanager
def _quiet_inference(model: "PreTrainedModel | PeftModel", seed: int) -> Iterator[None]:
    """Set eval mode, no gradients, and a random state that leaves the caller's unchanged."""
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
