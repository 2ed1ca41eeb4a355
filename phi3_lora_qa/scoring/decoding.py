"""Decode an answer: cut it at its stop token, and turn its tokens into text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def truncate_at_stop(answer: Sequence[int], stops: frozenset[int]) -> tuple[int, ...]:
    """Return an answer up to its first stop token, inclusive; what follows it is padding."""
    for index, token in enumerate(answer):
        if token in stops:
            return tuple(answer[: index + 1])
    return tuple(answer)


def decode_answer(tokenizer: "PreTrainedTokenizerBase", answer: Sequence[int]) -> str:
    """Return an answer as text, without special tokens."""
    return str(
        tokenizer.decode(list(answer), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
