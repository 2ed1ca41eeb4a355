"""Renders untrusted chat templates, and compares them, in a child process with resource limits.

jinja2's sandbox blocks access to the interpreter. Endless loops and texts end at the child's limits
on CPU time, memory and output, or at the wall-clock limit of the parent.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.bounded_process import Limits, folders_of, run_child
from phi3_lora_qa.adapter.chat_template import template_rendering_child
from phi3_lora_qa.adapter.chat_template.template_rendering_child import READY
from phi3_lora_qa.adapter.chat_template.template_sandbox import MAX_CHARACTERS, MEMORY_MIB
from phi3_lora_qa.adapter.chat_template.tolerated_differences import ToleratedKind
from phi3_lora_qa.errors import MachineError, escape

LIMITS = Limits(
    wall_seconds=4.0,  # twice the CPU time, for a busy machine
    cpu_seconds=2,
    memory_mib=MEMORY_MIB,
    # A character takes up to twelve bytes of ASCII JSON; the rest is for punctuation.
    output_bytes=12 * MAX_CHARACTERS + (64 << 10),
)
"""The limits of the child that renders templates."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The input of a template: messages as (role, content), and whether to open an answer."""

    messages: tuple[tuple[str, str], ...]
    add_generation_prompt: bool = False


@dataclass(frozen=True)
class Refusal:
    """A template's own refusal of a conversation, by raise_exception.

    The message is printable.
    """

    message: str


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """The result of rendering one template.

    Attributes:
        texts: For each conversation its text, which may contain any character, or a refusal.
        error: Why there are no texts, printable, such as "took longer than …"; empty if there are
            texts.
    """

    texts: tuple[str | Refusal, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Difference:
    """A difference between the outputs of two templates; the texts may contain any character.

    Attributes:
        conversation: A summary of the conversation.
        ours: The output of one template around the first difference; None if it fails or refuses.
        theirs: The output of the other.
    """

    conversation: str
    ours: str | None
    theirs: str | None


@dataclass(frozen=True)
class OwnTrigger:
    """A text or number that only one of two templates compares with what a message says.

    Attributes:
        line: The line in the template.
        value: The text or number, which may contain any character.
    """

    line: int
    value: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of comparing two templates.

    Attributes:
        difference: The first difference that was found.
        same_form: Whether they differ only in syntax: marks around an answer, blanks within tags,
            texts that are joined or not.
        conversations: The number of conversations that were tried.
        branches: The number of conditions of the first template.
        uncovered_lines: The lines of its conditions that lacked an outcome and that the second
            template does not have.
        unrendered: Texts that only the first template has and that it never output.
        finished_chat: The first difference at the end of a finished chat, if there is one and
            prompts do not differ.
        other_role: The same for a role that the second template leaves out.
        triggers: What only the first template compares with what a message says.
        error: Why nothing was compared, such as "took longer than …"; empty if it was compared.
    """

    difference: Difference | None = None
    same_form: bool = False
    conversations: int = 0
    branches: int = 0
    uncovered_lines: tuple[int, ...] = ()
    unrendered: tuple[str, ...] = ()
    finished_chat: Difference | None = None
    other_role: Difference | None = None
    triggers: tuple[OwnTrigger, ...] = ()
    error: str = ""


def render(
    templates: Sequence[str],
    conversations: Sequence[Conversation],
    special_tokens: Mapping[str, str],
) -> tuple[Rendering, ...]:
    """Render conversations as transformers does, within limits; takes about a tenth of a second.

    Args:
        templates: The texts of the templates, which are untrusted. The limits apply to all of them
            together: one that exceeds them also fails the others.
        conversations: The conversations to render.
        special_tokens: Texts of special tokens by name, such as ``eos_token``.

    Returns:
        One result per template.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        MachineError: The child failed before it read the templates.
    """
    return render_and_compare(templates, conversations, special_tokens, ())[0]


def render_and_compare(
    templates: Sequence[str],
    conversations: Sequence[Conversation],
    special_tokens: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> tuple[tuple[Rendering, ...], tuple[Comparison, ...]]:
    """Render conversations, and compare pairs of templates on generated conversations.

    Args:
        templates: As for `render`.
        conversations: As for `render`.
        special_tokens: As for `render`.
        pairs: Pairs of templates that should be equivalent, by their texts.

    Returns:
        One rendering per template, and one comparison per pair.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        MachineError: The child failed before it read the templates.
    """
    job = {
        "templates": list(templates),
        "special_tokens": dict(special_tokens),
        "conversations": [
            {
                "messages": [{"role": role, "content": text} for role, text in one.messages],
                "add_generation_prompt": one.add_generation_prompt,
            }
            for one in conversations
        ],
        "pairs": [[templates.index(text) for text in pair] for pair in pairs],
    }
    program = Path(template_rendering_child.__file__).resolve()
    folders = folders_of("jinja2", "markupsafe")
    output, failure = run_child(program, folders, json.dumps(job).encode("ascii"), LIMITS)
    if not output.startswith(READY):
        raise MachineError(
            "the program that renders chat templates did not start: "
            f"{failure or 'no output'}; check that {escape(sys.executable)} can import jinja2, "
            "and run again"
        )
    count = len(templates)
    if not failure:
        try:
            results = json.loads(output[len(READY) :])
            rendered = tuple(_rendering(result, len(conversations)) for result in results[:count])
            compared = tuple(_comparison(result) for result in results[count:])
        except (ValueError, KeyError, TypeError):
            failure = "ended without a result"
        else:
            if len(rendered) == count and len(compared) == len(pairs):
                return rendered, compared
            failure = "returned no result for a template"
    return (Rendering(error=failure),) * count, (Comparison(error=failure),) * len(pairs)


def _rendering(result: Mapping[str, Any], count: int) -> Rendering:
    if "error" in result:
        return Rendering(error=escape(result["error"]))
    texts = tuple(_text(item) for item in result["texts"])
    if len(texts) != count:
        return Rendering(error="returned no result for a conversation")
    return Rendering(texts=texts)


def _comparison(result: Mapping[str, Any]) -> Comparison:
    if "error" in result:
        return Comparison(error=escape(result["error"]))
    triggers = tuple(OwnTrigger(int(t["line"]), str(t["value"])) for t in result["triggers"])
    if "conversation" in result:
        return Comparison(difference=_difference(result), triggers=triggers)
    tolerated = {kind: _difference(found) for kind, found in result["tolerated"].items()}
    return Comparison(
        same_form=bool(result["same_form"]),
        conversations=int(result["conversations"]),
        branches=int(result["branches"]),
        uncovered_lines=tuple(map(int, result["uncovered_lines"])),
        unrendered=tuple(map(str, result["unrendered"])),
        finished_chat=tolerated.get(ToleratedKind.FINISHED_CHAT),
        other_role=tolerated.get(ToleratedKind.OTHER_ROLE),
        triggers=triggers,
    )


def _difference(result: Mapping[str, Any]) -> Difference:
    texts = (result["conversation"], result["ours"], result["theirs"])
    conversation, ours, theirs = (None if text is None else str(text) for text in texts)
    return Difference(conversation or "", ours, theirs)


def _text(item: Any) -> str | Refusal:
    return item if isinstance(item, str) else Refusal(escape(item["refusal"]))
