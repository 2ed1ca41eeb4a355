"""Items as tokens: what the model sees before it answers, and what its answer should be.

The loss is conditioned on exactly the tokens that generation starts from. The turn ends with the
stop token of the chat template; what the template writes behind it (Phi-3 a line break and the
end of the text, ChatML a line break) belongs to no answer and is not scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.errors import BaseModelError, DataError, escape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKER = "qx7reference7xq"
"""Stands for an answer while the template is looked at; no template writes it by itself."""


LONGEST_ANSWER = 128
"""Tokens of an answer, unless the reference itself has more."""


@dataclass(frozen=True, kw_only=True)
class PromptedItem:
    """One item ready for a model.

    ``prompt`` are the token ids up to and including the template's opening of the assistant turn;
    ``reference`` and ``choices`` those of the reference answer and of the options, where there are
    any, the stop token at the end included.
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


def prompt_item(
    tokenizer: "PreTrainedTokenizerBase",
    stop: int,
    item: Item,
    most: int | None = None,
    ends: frozenset[int] = frozenset(),
) -> PromptedItem:
    """Turn one item into tokens.

    Args:
        tokenizer: With a chat template.
        stop: The token that ends an assistant turn, from ``stop_token``.
        item: The item.
        most: The most tokens of an answer, see `answer_limit`.
        ends: The tokens at which the base ends an answer.

    Raises:
        DataError: The template refuses the conversation (a role that it does not know), the
            reference has no tokens, or it or a choice holds a token that ends answers.
    """
    text = _render(tokenizer, item.prompt, opening=True)
    prompt = _tokens(tokenizer, text)
    answer = _answer(tokenizer, text, prompt, item.reference)
    choices = [_answer(tokenizer, text, prompt, choice) for choice in item.choices]
    if not prompt or not answer:
        raise DataError("the prompt or the reference has no tokens; write a question and an answer")
    _require_possible(tokenizer, stop, ends, item, [answer, *choices])
    return PromptedItem(
        id=item.id,
        prompt=prompt,
        reference=(*answer, stop),
        answer_limit=answer_limit(len(answer), most),
        choices=tuple((*choice, stop) for choice in choices),
    )


def _require_possible(
    tokenizer: "PreTrainedTokenizerBase",
    stop: int,
    ends: frozenset[int],
    item: Item,
    answers: Sequence[Sequence[int]],
) -> None:
    """Refuse a reference or choice that goes on behind its end: every model would be wrong."""
    # Where a template ends a turn with an ordinary token, such as a line break, only the base says
    # whether an answer ends there.
    own = frozenset({stop}).intersection(tokenizer.added_tokens_decoder)
    for number, answer in enumerate(answers):
        if held := [token for token in answer if token in ends | own]:
            where = f"{escape(item.where, 200)}: " if item.where else ""
            raise DataError(
                f"{where}{'a choice' if number else 'the reference'} holds "
                f"{escape(repr(tokenizer.convert_ids_to_tokens(held[0])), 60)}, at which an answer "
                "ends, so that no model could give it; take it out"
            )


def answer_limit(reference: int, most: int | None = None) -> int:
    """Return how many tokens an answer may have, the stop token included.

    The limit of an item never depends on its neighbours, and a model that answers as the reference
    does is never cut: its answer would be wrong and would seem not to stop.

    Args:
        reference: The reference's tokens.
        most: An answer gets twice its reference's tokens and eight more, at most this many; by
            default `LONGEST_ANSWER`, or the reference's own and eight more where it is longer.
    """
    return min(2 * reference + 8, max(LONGEST_ANSWER, reference + 8) if most is None else most)


def _answer(
    tokenizer: "PreTrainedTokenizerBase", text: str, prompt: tuple[int, ...], answer: str
) -> tuple[int, ...]:
    whole = _tokens(tokenizer, text + answer)
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :]
    # An answer that begins with white space can merge with the end of the prompt. The model will
    # be given the prompt's own tokens, so the answer is read apart from them.
    return _tokens(tokenizer, answer)


def stop_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that the chat template puts behind an assistant's answer.

    Raises:
        BaseModelError: There is no template, or it does not show an answer and something behind.
    """
    turns = (Message(role="user", content="?"), Message(role="assistant", content=_MARKER))
    text = _render(tokenizer, turns, opening=False)
    _, marker, behind = text.rpartition(_MARKER)
    tokens = _tokens(tokenizer, behind) if marker else ()
    if not tokens:
        raise BaseModelError(
            "the chat template puts nothing behind an assistant's answer, so no answer could end; "
            "give a base whose tokenizer has a chat template with a stop token"
        )
    return tokens[0]


def _render(
    tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Message], *, opening: bool
) -> str:
    import jinja2

    if not tokenizer.chat_template:
        raise BaseModelError(
            "the tokenizer of the base has no chat template; "
            "give a base that was tuned for conversations"
        )
    try:
        text = tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            add_generation_prompt=opening,
            tokenize=False,
        )
    except jinja2.TemplateError as error:
        raise DataError(
            f"the chat template refuses these turns ({error}); use the roles that the base knows"
        ) from error
    return str(text)


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    """The template writes every special token itself, so none is added."""
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
