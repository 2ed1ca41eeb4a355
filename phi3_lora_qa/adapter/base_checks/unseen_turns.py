"""Tries a chat template on conversations of distinctive words: which turns does the model see?"""

from collections.abc import Mapping
from dataclasses import dataclass

from phi3_lora_qa.adapter.chat_template.template_rendering import Conversation, Refusal, render
from phi3_lora_qa.adapter.chat_template.template_results import KNOWN_GOOD
from phi3_lora_qa.adapter.manifest import template_hash

Roles = tuple[str, ...]
Shapes = Mapping[Roles, int]

QUESTION: Roles = ("user",)
"""The prompt of a single question, which every template for conversations must show."""

USUAL: tuple[Roles, ...] = (
    QUESTION,
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
)
"""The roles of the prompts that every template is tried with."""

MOST_SHAPES, MOST_TURNS = 64, 64
"""The most different prompts of a suite that are tried, and the most turns of one."""

_ANSWERED = ("user", "assistant")
_BETWEEN = " and" * 1000
"""Makes a turn as long as people write them, so that a template that cuts turns is found."""
_KNOWN_END = "<|end|>\n"


@dataclass(frozen=True, kw_only=True)
class TemplateTrial:
    """What a template does with conversations.

    Attributes:
        unseen: The positions of the turns that a prompt lacks, by the prompt's roles.
        refusals: The template's own message for each prompt that it refuses, by the prompt's roles.
        end: What it writes after an answer that ends the conversation; None if that is not known.
        error: Why it cannot be rendered at all, printable; empty if it can.
    """

    unseen: Mapping[Roles, tuple[int, ...]] | None = None
    refusals: Mapping[Roles, str] | None = None
    end: str | None = None
    error: str = ""


def words_of(turn: int) -> tuple[str, str]:
    """Return the first and the last word of a turn that is made up."""
    return f"quillwort{turn}q", f"marigold{turn}z"


def try_template(text: str, shapes: Shapes, special_tokens: Mapping[str, str]) -> TemplateTrial:
    """Render prompts whose turns are made up, and look for the words of each turn.

    Args:
        text: The template, which is rendered in a sandbox. One that is known to be good is not
            rendered, unless the suite has prompts of other shapes than the usual ones.
        shapes: The roles of the suite's prompts.
        special_tokens: Texts of special tokens by name, such as ``eos_token``.

    Raises:
        MachineError: The process that renders templates could not be started.
    """
    further = [roles for roles in shapes if roles not in USUAL and len(roles) <= MOST_TURNS]
    if template_hash(text) in KNOWN_GOOD and not further:
        return TemplateTrial(unseen={}, refusals={}, end=_KNOWN_END)
    tried = (*USUAL, *further[:MOST_SHAPES])
    conversations = [_made_up(roles, is_prompt=True) for roles in tried]
    rendering = render(
        (text,), [*conversations, _made_up(_ANSWERED, is_prompt=False)], special_tokens
    )[0]
    if rendering.error:
        return TemplateTrial(error=rendering.error)
    unseen: dict[Roles, tuple[int, ...]] = {}
    refusals: dict[Roles, str] = {}
    for roles, prompt in zip(tried, rendering.texts, strict=False):
        if isinstance(prompt, Refusal):
            refusals[roles] = prompt.message
        elif missing := _missing(len(roles), prompt):
            unseen[roles] = missing
    return TemplateTrial(unseen=unseen, refusals=refusals, end=_end(rendering.texts[-1]))


def _made_up(roles: Roles, *, is_prompt: bool) -> Conversation:
    messages = tuple((role, f"{_BETWEEN} ".join(words_of(turn))) for turn, role in enumerate(roles))
    return Conversation(messages=messages, add_generation_prompt=is_prompt)


def _missing(turns: int, prompt: str) -> tuple[int, ...]:
    text = prompt.casefold()
    return tuple(turn for turn in range(turns) if not all(word in text for word in words_of(turn)))


def _end(text: str | Refusal) -> str | None:
    if isinstance(text, Refusal):
        return None
    _, word, after = text.rpartition(words_of(len(_ANSWERED) - 1)[1])
    return after if word else None
