"""Special tokens of chat templates in texts that people write, such as a stop token in an answer.

A tokenizer reads the characters ``<|end|>`` as the stop token wherever they are. An answer that
contains it cannot be generated, and a model that is trained on it learns to go on after the end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from phi3_lora_qa.data.chat_items import Item, Message

Part = Literal["reference", "choice", "turn"]


@dataclass(frozen=True, kw_only=True)
class TurnTokens:
    """The special tokens of a base that end an answer (``stops``) or begin a turn (``openers``)."""

    stops: tuple[str, ...]
    openers: tuple[str, ...]

    def first_in(self, text: str) -> "FoundToken | None":
        """Return the first of the tokens that a text contains, or None."""
        found = [
            (position, -len(token), token)
            for token in (*self.stops, *self.openers)
            if (position := text.find(token)) >= 0 and not _is_html(token, text)
        ]
        if not found:
            return None
        token = min(found)[2]
        return FoundToken(text=token, ends_answer=token in self.stops)


@dataclass(frozen=True, kw_only=True)
class FoundToken:
    """A token that was found; ``ends_answer`` is False if it begins a turn."""

    text: str
    ends_answer: bool


@dataclass(frozen=True, kw_only=True)
class MarkedItem:
    """An item with a token in an answer.

    Attributes:
        item: The item's id.
        where: The file and line.
        part: The reference, a choice, or an earlier turn of the assistant.
        token: The token's text.
        ends_answer: Whether it is a stop token.
    """

    item: str
    where: str
    part: Part
    token: str
    ends_answer: bool


WELL_KNOWN = TurnTokens(
    stops=(
        "<|end|>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>",
        "<end_of_turn>", "</s>",
    ),
    openers=(
        "<|user|>", "<|assistant|>", "<|system|>", "<|im_start|>", "<|start_header_id|>",
        "<start_of_turn>",
    ),
)  # fmt: skip
"""Those of Phi-3, ChatML, Llama and Gemma, for texts whose base is not known."""

ROLE_TOKENS = ("<|user|>", "<|assistant|>", "<|system|>")
"""Tokens that some templates write as ``'<|' + role + '|>'``."""


def find_marked_items(items: Iterable[Item], tokens: TurnTokens) -> tuple[MarkedItem, ...]:
    """Return the items in which an answer contains a token, each with the first such answer.

    Turns of the user and the system are not searched: a suite may test how a model reacts to a
    user who writes special tokens.
    """
    marked = []
    for item in items:
        for part, text in _answers(item):
            if found := tokens.first_in(text):
                marked.append(
                    MarkedItem(
                        item=item.id,
                        where=item.where,
                        part=part,
                        token=found.text,
                        ends_answer=found.ends_answer,
                    )
                )
                break
    return tuple(marked)


def find_marked_turn(turns: Sequence[Message], tokens: TurnTokens) -> tuple[int, FoundToken] | None:
    """Return the index and the token of the first turn of the assistant that contains a token."""
    for number, turn in enumerate(turns):
        if turn.role == "assistant" and (found := tokens.first_in(turn.content)):
            return number, found
    return None


def _answers(item: Item) -> list[tuple[Part, str]]:
    earlier = [turn.content for turn in item.prompt if turn.role == "assistant"]
    return [
        ("reference", item.reference),
        *[("choice", choice) for choice in item.choices],
        *[("turn", text) for text in earlier],
    ]


def _is_html(token: str, text: str) -> bool:
    """Whether every ``</s>`` in a text ends a ``<s>``, HTML's element for struck-out text."""
    return token == "</s>" and text.count("</s>") <= text.count("<s>")
