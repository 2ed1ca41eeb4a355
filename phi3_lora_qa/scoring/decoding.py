"""Where answers end, and what they say in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.models.registry import BaseRef, find_known

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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


def cut(answer: Sequence[int], stops: frozenset[int]) -> tuple[int, ...]:
    """Keep everything up to the first stop token; what follows is padding."""
    for place, token in enumerate(answer):
        if token in stops:
            return tuple(answer[: place + 1])
    return tuple(answer)
