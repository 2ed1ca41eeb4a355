"""Chat templates from strangers, rendered in a child process that can do nothing else for long.

What jinja's sandbox refuses, it refuses; what it lets through (endless loops, endless strings) ends
at the child's limits on computing time, memory and output, or at this side's clock.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from phi3_lora_qa.adapter import render_child
from phi3_lora_qa.adapter.render_child import CPU_SECONDS, MAX_CHARACTERS, READY
from phi3_lora_qa.errors import MachineError, MissingDependencyError, escape

if TYPE_CHECKING:
    import subprocess

WALL_SECONDS = 4.0
"""After which a child is ended whatever it does; twice what it may compute, for a busy machine."""

# A character takes up to twelve bytes of ASCII JSON; the rest is for commas and the like.
_MAX_ANSWER = 12 * MAX_CHARACTERS + (64 << 10)

# Without these, where they are set, an interpreter may not start at all. Nothing else is passed on.
_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


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
        form: Equal for templates that write the same and are only written otherwise: with marks
            around an answer, other blanks within tags, texts joined or not.
        error: Why there are no texts, printable, as what the template did ("took longer than …");
            empty where there are.
    """

    texts: tuple[str | Refusal, ...] = ()
    form: str = ""
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
    }
    output, ending = _run(json.dumps(job).encode("ascii"))
    if not output.startswith(READY):
        raise MachineError(
            f"the program that renders chat templates did not start ({ending or 'no word of it'}); "
            f"see that {escape(sys.executable)} can import jinja2, and run again"
        )
    if not ending:
        try:
            answers = json.loads(output[len(READY) :])
            found = tuple(_read(answer, len(conversations)) for answer in answers)
        except (ValueError, KeyError, TypeError):
            ending = "ended without an answer"
        else:
            if len(found) == len(templates):
                return found
            ending = "lost a template"
    return (Rendering(error=ending),) * len(templates)


def _read(answer: Mapping[str, Any], count: int) -> Rendering:
    if "error" in answer:
        return Rendering(error=escape(answer["error"]))
    texts = tuple(_text(item) for item in answer["texts"])
    if len(texts) != count:
        return Rendering(error="lost a conversation")
    return Rendering(texts=texts, form=str(answer["form"]))


def _text(item: Any) -> str | Refusal:
    return item if isinstance(item, str) else Refusal(escape(item["refusal"]))


def _run(job: bytes) -> tuple[bytes, str]:
    """Run the child; return what it wrote, and how it was ended if it did not end well."""
    import subprocess

    deadline = time.monotonic() + WALL_SECONDS
    with subprocess.Popen(
        # Isolated, without site and without writing bytecode: no startup files, no .pth files.
        [sys.executable, "-I", "-S", "-B", str(Path(render_child.__file__).resolve()), *_library()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
        start_new_session=True,  # a group of its own, which can be ended as a whole
    ) as child:
        output = bytearray()
        # Threads, as the system may know no other way to wait for a pipe and a clock at once.
        threads = [
            threading.Thread(target=_feed, args=(child.stdin, job), daemon=True),
            threading.Thread(target=_collect, args=(child.stdout, output), daemon=True),
        ]
        try:
            for thread in threads:
                thread.start()
            threads[1].join(WALL_SECONDS)
            if threads[1].is_alive():
                return bytes(output), f"took longer than {WALL_SECONDS:g} s"
            if len(output) > _MAX_ANSWER:
                return bytes(output), f"wrote more than {_MAX_ANSWER} bytes"
            status = child.wait(max(deadline - time.monotonic(), 1.0))
            return bytes(output), _ending(status)
        except subprocess.TimeoutExpired:
            return bytes(output), f"took longer than {WALL_SECONDS:g} s"
        finally:
            # Not poll(): until its end is collected, its number is no other process's, and what it
            # may have left behind can be ended with it.
            if child.returncode is None:
                _kill(child)
            for thread in threads:
                thread.join(1.0)


def _library() -> list[str]:
    """Return the folders from which jinja2 and its one dependency are imported here."""
    folders = []
    for name in ("jinja2", "markupsafe"):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise MissingDependencyError(
                f"chat templates are rendered with {name}, which is missing; pip install jinja2"
            )
        folders.append(str(Path(spec.origin).resolve().parents[1]))
    return list(dict.fromkeys(folders))


def _feed(pipe: IO[bytes], job: bytes) -> None:
    with suppress(OSError), pipe:  # a child that has ended reads no more
        pipe.write(job)


def _collect(pipe: IO[bytes], output: bytearray) -> None:
    """Take what comes as it comes, so that what a child wrote before its end is not lost."""
    with suppress(OSError):
        while len(output) <= _MAX_ANSWER and (chunk := os.read(pipe.fileno(), 1 << 16)):
            output += chunk


def _ending(status: int) -> str:
    if status == 0:
        return ""
    if status == -getattr(signal, "SIGXCPU", 0):
        return f"took longer than {CPU_SECONDS} s of computing time"
    return f"ended the renderer with {'signal' if status < 0 else 'status'} {abs(status)}"


def _kill(child: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, signal.SIGKILL)
