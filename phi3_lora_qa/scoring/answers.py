"""The answers that a model gives by itself: greedy, in batches, each item within its own limit."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.models.registry import BaseRef, find_known
from phi3_lora_qa.scoring.prompts import PromptedItem

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def greedy_answers(
    model: "PreTrainedModel", batch: Sequence[PromptedItem], stops: frozenset[int]
) -> list[tuple[int, ...]]:
    """Return the token ids of each answer; one that ended by itself ends with its stop token.

    Args:
        model: A causal language model without PEFT's outer shell.
        batch: The items, at least one.
        stops: The tokens that end an answer.
    """
    import torch
    from transformers import StoppingCriteriaList

    pad = min(stops)
    width = max(len(item.prompt) for item in batch)
    ids = torch.full((len(batch), width), pad)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(batch):
        ids[row, width - len(item.prompt) :] = torch.tensor(item.prompt)
        mask[row, width - len(item.prompt) :] = 1
    limits = torch.tensor([item.answer_limit for item in batch], device=model.device)
    generate: Any = model.generate  # a decorator of torch hides its type
    generated = generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=_greedy(int(limits.max()), stops, pad),
        stopping_criteria=StoppingCriteriaList([_OwnLimit(width, limits)]),
    )
    answers = generated[:, width:].tolist()
    return [
        cut(answer[: item.answer_limit], stops) for answer, item in zip(answers, batch, strict=True)
    ]


def stop_tokens(model: "PreTrainedModel", fallback: int) -> frozenset[int]:
    """Return the tokens at which a server would end an answer: those of generation_config.json.

    ``fallback``, the template's own stop token, is used only where the base names none. It is not
    added otherwise: a base that does not stop there when served must not do so here.
    """
    named = model.generation_config.eos_token_id if model.generation_config else None
    return _as_set(named, fallback)


def stop_tokens_of(base: BaseRef, fallback: int) -> frozenset[int]:
    """Return what `stop_tokens` would for a base that is not loaded, from its files.

    Without a generation_config.json its config.json names them, as transformers has it.
    """
    from transformers import GenerationConfig, Phi3Config

    known = find_known(base.id)
    source = str(base.folder or base.id)
    if known and known.source == "hub" and not (Path(source) / "generation_config.json").is_file():
        source = base.id  # only part of it is in the hub's cache
    config: Any
    try:
        config = GenerationConfig.from_pretrained(source)
    except OSError:
        config = Phi3Config.from_pretrained(source)
    return _as_set(config.eos_token_id, fallback)


def answer_text(tokenizer: "PreTrainedTokenizerBase", answer: Sequence[int]) -> str:
    """Return an answer's words, without special tokens."""
    return str(
        tokenizer.decode(list(answer), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def _as_set(named: int | Sequence[int] | None, fallback: int) -> frozenset[int]:
    if named is None:
        return frozenset({fallback})
    return frozenset([named] if isinstance(named, int) else named)


class _OwnLimit:
    """Ends each row at its own item's limit: a stopping criterion, called after every token."""

    def __init__(self, width: int, limits: "Tensor") -> None:
        self._width, self._limits = width, limits

    def __call__(self, input_ids: "Tensor", scores: object, **_: object) -> "Tensor":
        return input_ids.shape[1] - self._width >= self._limits


def _greedy(max_new_tokens: int, stops: frozenset[int], pad: int) -> "GenerationConfig":
    """Every field that generate() would otherwise fill in from the base's own sampling settings."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stops),
        pad_token_id=pad,
        use_cache=True,
    )


def cut(answer: Sequence[int], stops: frozenset[int]) -> tuple[int, ...]:
    """Keep everything up to the first stop token; what follows is padding."""
    for place, token in enumerate(answer):
        if token in stops:
            return tuple(answer[: place + 1])
    return tuple(answer)
