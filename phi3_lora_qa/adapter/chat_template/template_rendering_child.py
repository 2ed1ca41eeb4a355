"""The child process that renders untrusted chat templates; `template_rendering` starts it.

jinja2's sandbox keeps a template away from the interpreter, but does not limit its time and memory.
This program therefore runs in its own process, with limits that are in place before it reads a
template.

`bounded_process` runs it by its path, in an interpreter without environment and site-packages; its
arguments are the folders of jinja2 and jinja2's dependencies. It imports only those and the modules
in this folder. On stdin it takes one JSON object: ``templates``, ``special_tokens`` (name to text),
``conversations``, each with ``messages`` and ``add_generation_prompt``, and ``pairs``, indices of
templates to compare. On stdout it writes `READY` before it reads the templates, then a JSON list
with one object per template, then one per pair. The object of a template has ``texts``, in which
``{"refusal": message}`` is the refusal of a conversation by the template itself; that of a pair has
the result of `template_comparison.compare`; or it has ``error``.
"""

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

READY = b"ready\n"


def main() -> None:
    """Read the job from stdin, and write the result to stdout."""
    sys.path.extend(sys.argv[1:])
    make_folder_importable()
    from datetime import datetime

    from phi3_lora_qa.adapter.chat_template.template_sandbox import Clock, make_environment

    clock = Clock(datetime.now())
    environment = make_environment(clock)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    job = json.load(sys.stdin.buffer)
    results = render_all(job, environment)
    results += [_compare_pair(job, pair, clock) for pair in job["pairs"]]
    # ASCII: a lone surrogate in a text cannot be encoded in UTF-8.
    sys.stdout.buffer.write(json.dumps(results).encode("ascii"))


def make_folder_importable() -> None:
    """Make the modules in this folder importable without running the package's ``__init__``."""
    from pathlib import Path
    from types import ModuleType

    folder = Path(__file__).parent
    places = {
        "phi3_lora_qa": folder.parents[1],
        "phi3_lora_qa.adapter": folder.parent,
        "phi3_lora_qa.adapter.chat_template": folder,
    }
    for name, path in places.items():
        package = ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package


def render_all(
    job: Mapping[str, Any], environment: "ImmutableSandboxedEnvironment"
) -> list[dict[str, Any]]:
    """Render every conversation with every template, with one limit on all texts together."""
    from phi3_lora_qa.adapter.chat_template.template_sandbox import MAX_CHARACTERS

    remaining = MAX_CHARACTERS
    results = []
    for text in job["templates"]:
        result = _render_one(text, job, environment, remaining)
        remaining -= sum(len(part) for part in result.get("texts", ()) if isinstance(part, str))
        results.append(result)
    return results


def _render_one(
    text: str, job: Mapping[str, Any], environment: "ImmutableSandboxedEnvironment", remaining: int
) -> dict[str, Any]:
    """Render every conversation, or describe the first error."""
    from phi3_lora_qa.adapter.chat_template.template_sandbox import explain, render

    try:
        template = environment.from_string(text)
        texts: list[str | dict[str, str]] = []
        for conversation in job["conversations"]:
            values = {**job["special_tokens"], **conversation, "tools": None, "documents": None}
            part = render(template, values, remaining)
            remaining -= len(part) if isinstance(part, str) else 0
            texts.append(part)
    except Exception as error:  # a template may raise anything, and the result says what
        return {"error": explain(error)}
    return {"texts": texts}


def _compare_pair(job: Mapping[str, Any], pair: list[int], clock: Any) -> dict[str, Any]:
    from phi3_lora_qa.adapter.chat_template.template_comparison import (
        SECONDS,
        TimeLimitError,
        compare,
    )
    from phi3_lora_qa.adapter.chat_template.template_sandbox import explain

    ours, theirs = (job["templates"][index] for index in pair)
    try:
        return compare(ours, theirs, job["special_tokens"], clock)
    except TimeLimitError:
        return {"error": f"took longer than {SECONDS} s of CPU time"}
    except Exception as error:  # a template may raise anything, and the result says what
        return {"error": explain(error)}


if __name__ == "__main__":
    main()
