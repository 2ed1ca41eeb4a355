"""Turn items into tokens: the prompt that a model reads, and the answer that it should give.

The loss is conditioned on exactly the tokens from which generation starts. A turn ends with the
stop token of the chat template; what the template writes after it (Phi-3 a line break and the end
of the text, ChatML a line break) is not part of an answer and is not scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.errors import BaseModelError, DataError, escape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKER = "qx7reference7xq"
"""A made-up answer that shows where a template puts answers; no template contains it."""

LONGEST_ANSWER = 128
"""The most tokens of an answer, unless the reference itself has more."""


@dataclass(frozen=True, kw_only=True)
class TokenizedItem:
    """One item as token ids.

    ``prompt`` ends with the template's opening of the assistant turn. ``reference`` and ``choices``
    are the reference answer and the options, if any, each with the stop token at its end.
    """

    id: str
    prompt: tuple[int, ...]
    reference: tuple[int, ...]
    answer_limit: int
    choices: tuple[tuple[int, ...], ...] = ()

    @property
    def length(self) -> int:
        """The tokens of the longest row that this item can need."""
        longest = max(map(len, (self.reference, *self.choices)))
        return len(self.prompt) + max(longest, self.answer_limit)


def tokenize_item(
    tokenizer: "PreTrainedTokenizerBase",
    template_stop: int,
    item: Item,
    max_new_tokens: int | None = None,
    stops: frozenset[int] = frozenset(),
) -> TokenizedItem:
    """Turn one item into tokens.

    Args:
        tokenizer: A tokenizer with a chat template.
        template_stop: The token that ends an assistant turn, from `template_stop_token`.
        item: The item.
        max_new_tokens: The most tokens of an answer, see `answer_limit`.
        stops: The tokens at which the base ends an answer.

    Raises:
        DataError: The template rejects the conversation (such as an unknown role), the reference
            has no tokens, or the reference or a choice contains a token that ends answers.
    """
    text = _render(tokenizer, item.prompt, add_generation_prompt=True)
    prompt = _tokens(tokenizer, text)
    answer = _answer_tokens(tokenizer, text, prompt, item.reference)
    choices = [_answer_tokens(tokenizer, text, prompt, choice) for choice in item.choices]
    if not prompt or not answer:
        raise DataError("the prompt or the reference has no tokens; write a question and an answer")
    _require_possible(tokenizer, template_stop, stops, item, [answer, *choices])
    return TokenizedItem(
        id=item.id,
        prompt=prompt,
        reference=(*answer, template_stop),
        answer_limit=answer_limit(len(answer), max_new_tokens),
        choices=tuple((*choice, template_stop) for choice in choices),
    )


def _require_possible(
    tokenizer: "PreTrainedTokenizerBase",
    template_stop: int,
    stops: frozenset[int],
    item: Item,
    answers: Sequence[Sequence[int]],
) -> None:
    """Reject a reference or choice with text after a stop token: no model could generate it."""
    # If a template ends a turn with an ordinary token, such as a line break, only the base's own
    # stop tokens say whether an answer ends there.
    special = frozenset({template_stop}).intersection(tokenizer.added_tokens_decoder)
    for number, answer in enumerate(answers):
        if found := [token for token in answer if token in stops | special]:
            where = f"{escape(item.where, 200)}: " if item.where else ""
            raise DataError(
                f"{where}{'a choice' if number else 'the reference'} contains the stop token "
                f"{escape(repr(tokenizer.convert_ids_to_tokens(found[0])), 60)}, so no model could "
                "give this answer; remove the token"
            )


def answer_limit(reference: int, max_new_tokens: int | None = None) -> int:
    """Return how many tokens an answer may have, the stop token included.

    The limit of an item does not depend on other items. A model that answers with the reference is
    never cut off: otherwise its answer would be wrong and would seem not to stop.

    Args:
        reference: The number of tokens of the reference.
        max_new_tokens: An answer gets twice the reference's tokens plus eight, at most this many.
            By default `LONGEST_ANSWER`, or the reference's tokens plus eight if that is more.
    """
    longest = max(LONGEST_ANSWER, reference + 8) if max_new_tokens is None else max_new_tokens
    return min(2 * reference + 8, longest)


def _answer_tokens(
    tokenizer: "PreTrainedTokenizerBase", text: str, prompt: tuple[int, ...], answer: str
) -> tuple[int, ...]:
    whole = _tokens(tokenizer, text + answer)
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    # An answer that begins with white space may merge with the end of the prompt. The model gets
    # the prompt's own tokens, so the answer is tokenized separately.
    return _tokens(tokenizer, answer)


def template_stop_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that the chat template writes after an assistant's answer.

    Raises:
        BaseModelError: There is no template, or it writes no answer, or nothing after it.
    """
    turns = (Message(role="user", content="?"), Message(role="assistant", content=_MARKER))
    text = _render(tokenizer, turns, add_generation_prompt=False)
    _, marker, after = text.rpartition(_MARKER)
    tokens = _tokens(tokenizer, after) if marker else ()
    if not tokens:
        raise BaseModelError(
            "the chat template writes nothing after an assistant's answer, so no answer could end; "
            "use a base whose chat template has a stop token"
        )
    return tokens[0]


def _render(
    tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    import jinja2

    if not tokenizer.chat_template:
        raise BaseModelError(
            "the tokenizer of the base has no chat template; "
            "use a base that was tuned for conversations"
        )
    try:
        text = tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
    except jinja2.TemplateError as error:
        raise DataError(
            f"the chat template rejects these turns: {error}; use roles that the base knows"
        ) from error
    return str(text)


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    """Tokenize a rendered text; the template has written all special tokens, so none is added."""
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
