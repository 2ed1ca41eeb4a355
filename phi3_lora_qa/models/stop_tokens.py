"""Which tokens end an answer: the one rule for scoring, training and serving.

A base lists its stop tokens in generation_config.json, and a server stops at these only. With
additional ones, such as the tokenizer's end-of-text token, an answer would count as finished
although a server continues it, and a model would learn to end with a token at which no server
stops.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.models.registry import BaseRef, find_known

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def stop_tokens(model: "PreTrainedModel", template_stop: int) -> frozenset[int]:
    """Return the stop tokens of a loaded base.

    Args:
        model: The base, or a tuned model.
        template_stop: The token with which the chat template ends an answer. It is used only if
            the base names no stop token.

    Returns:
        The token ids, at least one.
    """
    config = model.generation_config
    return _named_or(config.eos_token_id if config else None, template_stop)


def stop_tokens_from_files(base: BaseRef, template_stop: int) -> frozenset[int]:
    """Return what `stop_tokens` returns, for a base that is not loaded.

    Without a generation_config.json, config.json names the stop tokens, as in transformers.
    """
    from transformers import AutoConfig, GenerationConfig

    known = find_known(base.id)
    source = str(base.folder or base.id)
    if known and known.source == "hub" and not (Path(source) / "generation_config.json").is_file():
        source = base.id  # the hub's cache holds only a part of the base
    config: Any
    try:
        config = GenerationConfig.from_pretrained(source)
    except OSError:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    return _named_or(config.eos_token_id, template_stop)


def _named_or(named: int | Sequence[int] | None, template_stop: int) -> frozenset[int]:
    if named is None:
        return frozenset({template_stop})
    return frozenset([named] if isinstance(named, int) else named)
