"""Chat templates from strangers, rendered in a child process that can do nothing else for long.

What jinja's sandbox refuses, it refuses; what it lets through (endless loops, endless strings) ends
at the child's limits on computing time, memory and output, or at this side's clock.
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
from phi3_lora_qa.errors import MachineError, escape

LIMITS = Limits(
    wall_seconds=4.0,  # twice what it may compute, for a busy machine
    cpu_seconds=2,
    memory_mib=MEMORY_MIB,
    # A character takes up to twelve bytes of ASCII JSON; the rest is for commas and the like.
    answer_bytes=12 * MAX_CHARACTERS + (64 << 10),
)
"""What the child may use that renders templates."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a template is given: messages as (role, content), and whether an answer is to follow."""

    messages: tuple[tuple[str, str], ...]
    add_generation_prompt: bool = False


@dataclass(frozen=True)
class Refusal:
    """A template's own word, by raise_exception, that it does not take a conversation.

    The message is printable.
    """

    message: str


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What came of a template.

    Attributes:
        texts: For each conversation its text, which may hold any character, or a refusal.
        error: Why there are no texts, printable, as what the template did ("took longer than …");
            empty where there are.
    """

    texts: tuple[str | Refusal, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Difference:
    """What two templates write otherwise: short texts, which may hold any character.

    Attributes:
        given: The conversation in short.
        ours: What one writes of it, from shortly before the difference; None: it fails, or refuses.
        theirs: What the other writes.
    """

    given: str
    ours: str | None
    theirs: str | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of comparing two templates.

    Attributes:
        difference: The first that was found.
        same_form: Whether they are the same but for the way they are written: with marks around an
            answer, other blanks within tags, texts joined or not.
        chats: How many conversations were tried.
        branches: How many conditions the first one has.
        missing: The lines of those of its conditions that never turned out one way or the other,
            and that the second one does not have.
        error: Why nothing was compared, as what the templates did.
    """

    difference: Difference | None = None
    same_form: bool = False
    chats: int = 0
    branches: int = 0
    missing: tuple[int, ...] = ()
    error: str = ""


def render(
    templates: Sequence[str],
    conversations: Sequence[Conversation],
    special_tokens: Mapping[str, str],
) -> tuple[Rendering, ...]:
    """Render conversations as transformers would, within limits, in about a tenth of a second.

    Args:
        templates: The texts of the templates. Nothing in them is trusted. The limits are for all of
            them together: one that goes over them takes the others with it.
        conversations: What to render them with.
        special_tokens: Texts of special tokens by name, such as ``eos_token``.

    Returns:
        One for each template.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        MachineError: The child did not get as far as reading the templates.
    """
    return render_and_compare(templates, conversations, special_tokens, ())[0]


def render_and_compare(
    templates: Sequence[str],
    conversations: Sequence[Conversation],
    special_tokens: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> tuple[tuple[Rendering, ...], tuple[Comparison, ...]]:
    """Render conversations, and compare pairs of templates on many more that are drawn for them.

    Args:
        templates: As for `render`.
        conversations: As for `render`.
        special_tokens: As for `render`.
        pairs: Of those templates: one, and the other that it is to be like.

    Returns:
        One rendering for each template, and one comparison for each pair.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        MachineError: The child did not get as far as reading the templates.
    """
    job = {
        "templates": list(templates),
        "special_tokens": dict(special_tokens),
        "conversations": [
            {
                "messages": [{"role": role, "content": text} for role, text in chat.messages],
                "add_generation_prompt": chat.add_generation_prompt,
            }
            for chat in conversations
        ],
        "pairs": [[templates.index(text) for text in pair] for pair in pairs],
    }
    program = Path(template_rendering_child.__file__).resolve()
    folders = folders_of("jinja2", "markupsafe")
    output, ending = run_child(program, folders, json.dumps(job).encode("ascii"), LIMITS)
    if not output.startswith(READY):
        raise MachineError(
            f"the program that renders chat templates did not start ({ending or 'no word of it'}); "
            f"see that {escape(sys.executable)} can import jinja2, and run again"
        )
    count = len(templates)
    if not ending:
        try:
            answers = json.loads(output[len(READY) :])
            found = tuple(_rendering(answer, len(conversations)) for answer in answers[:count])
            compared = tuple(_comparison(answer) for answer in answers[count:])
        except (ValueError, KeyError, TypeError):
            ending = "ended without an answer"
        else:
            if len(found) == count and len(compared) == len(pairs):
                return found, compared
            ending = "lost a template"
    return (Rendering(error=ending),) * count, (Comparison(error=ending),) * len(pairs)


def _rendering(answer: Mapping[str, Any], count: int) -> Rendering:
    if "error" in answer:
        return Rendering(error=escape(answer["error"]))
    texts = tuple(_text(item) for item in answer["texts"])
    if len(texts) != count:
        return Rendering(error="lost a conversation")
    return Rendering(texts=texts)


def _comparison(answer: Mapping[str, Any]) -> Comparison:
    if "error" in answer:
        return Comparison(error=escape(answer["error"]))
    if "given" in answer:
        texts = (answer["given"], answer["ours"], answer["theirs"])
        given, ours, theirs = (None if text is None else str(text) for text in texts)
        return Comparison(difference=Difference(given or "", ours, theirs))
    return Comparison(
        same_form=bool(answer["same_form"]),
        chats=int(answer["chats"]),
        branches=int(answer["branches"]),
        missing=tuple(map(int, answer["missing"])),
    )


def _text(item: Any) -> str | Refusal:
    return item if isinstance(item, str) else Refusal(escape(item["refusal"]))
