"""Differences between two templates that affect no prompt of ordinary turns.

A template may end a finished chat without the end token, as unsloth's for Phi-3 does: the chat is
only rendered for training. It may also render roles that the base's template leaves out silently.
The child that renders templates imports this module; see `template_rendering_child`.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from phi3_lora_qa.adapter.chat_template.conversation_generation import TemplateInput

_ORDINARY_ROLES = ("system", "user", "assistant")
_PHI3_END = "<|endoftext|>"

Render = Callable[[TemplateInput], tuple[str | None, str | None]]


class ToleratedKind(StrEnum):
    """Why a difference affects no prompt of ordinary turns."""

    FINISHED_CHAT = "finished chat"
    OTHER_ROLE = "other role"


def tolerated_kind(
    case: TemplateInput, ours: str | None, theirs: str | None, render: Render
) -> ToleratedKind | None:
    """Return why a difference affects no prompt of ordinary turns; None if it may affect one.

    Args:
        case: The conversation.
        ours: The output of the template.
        theirs: The output of the base's template.
        render: Renders another conversation with both.
    """
    if ours is None or theirs is None:
        return None
    if _same_but_for_end(case, ours, theirs):
        return ToleratedKind.FINISHED_CHAT
    if _renders_other_roles(case, ours, theirs, render):
        return ToleratedKind.OTHER_ROLE
    return None


def _same_but_for_end(case: TemplateInput, ours: str, theirs: str) -> bool:
    """Whether the outputs of a finished chat differ only in the tokens and blanks at the end."""
    if case.variables.get("add_generation_prompt"):
        return False
    end = case.variables.get("eos_token")
    ends = (_PHI3_END, end) if isinstance(end, str) and end else (_PHI3_END,)

    def without_end(text: str) -> str:
        text = text.rstrip()
        found = next((e for e in ends if text.endswith(e)), "")
        return text.removesuffix(found).rstrip()

    return without_end(ours) == without_end(theirs)


def _renders_other_roles(case: TemplateInput, ours: str, theirs: str, render: Render) -> bool:
    """Whether messages that the base's template leaves out are rendered as a user's would be."""
    messages: Any = case.variables.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return False
    others = [m for m in messages if m.get("role") not in _ORDINARY_ROLES]
    if not others or not all(isinstance(m.get("role"), str) for m in others):
        return False
    left = [message for message in messages if message not in others]
    if render(case.with_variables(messages=left))[1] != theirs:
        return False
    renamed = [{**m, "role": "user"} if m in others else m for m in messages]
    mine, its = render(case.with_variables(messages=renamed))
    if mine is None or its is None:
        return False
    for message in others:
        marker = f"<|{message['role']}|>"
        ours, mine = (text.replace(marker, "<|user|>") for text in (ours, mine))
    same = mine == its or _same_but_for_end(case, mine, its)
    return ours == mine and same
