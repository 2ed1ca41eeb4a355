"""Render a stranger's chat templates: a small program that `rendering` starts and can end.

Jinja's sandbox keeps a template from the interpreter, but not from its time and memory. So this
runs as a process of its own, within limits, and only then reads the template.

`child` runs it by its path, in an interpreter without environment and site-packages; its arguments
are the folders that hold jinja2 and what jinja2 needs. It imports nothing else but the modules
``template_…`` beside it. On stdin it takes one JSON object: ``templates``, ``special_tokens`` (name
to text), ``conversations``, each with ``messages`` and ``add_generation_prompt``, and ``pairs``,
numbers of templates to compare. On stdout it writes `READY` when the templates are about to be
read, then a JSON list with an object for each template, and then for each pair. That of a template
has ``texts``, in which an object ``{"refusal": message}`` stands for a conversation that the
template itself refuses; that of a pair has what `template_comparison.compare` returns; or
``error``.
"""

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

READY = b"ready\n"


def main() -> None:
    """Take the job from stdin, and write the answer to stdout."""
    sys.path.extend(sys.argv[1:])
    stand_in_for_the_package()
    from datetime import datetime

    from phi3_lora_qa.adapter.chat_template.template_sandbox import Clock, make_environment

    clock = Clock(datetime.now())
    environment = make_environment(clock)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    job = json.load(sys.stdin.buffer)
    answers = answers_to(job, environment)
    answers += [_comparison(job, pair, clock) for pair in job["pairs"]]
    # ASCII: a lone surrogate in a text has no bytes of its own.
    sys.stdout.buffer.write(json.dumps(answers).encode("ascii"))


def stand_in_for_the_package() -> None:
    """Let the modules beside this one be imported, without the package's own beginnings."""
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


def answers_to(
    job: Mapping[str, Any], environment: "ImmutableSandboxedEnvironment"
) -> list[dict[str, Any]]:
    """Render every conversation with every template, within one cap on what they write."""
    from phi3_lora_qa.adapter.chat_template.template_sandbox import MAX_CHARACTERS

    room = MAX_CHARACTERS
    answers = []
    for text in job["templates"]:
        answer = _answer(text, job, environment, room)
        room -= sum(len(part) for part in answer.get("texts", ()) if isinstance(part, str))
        answers.append(answer)
    return answers


def _answer(
    text: str, job: Mapping[str, Any], environment: "ImmutableSandboxedEnvironment", room: int
) -> dict[str, Any]:
    """Render every conversation, or say what went wrong with the first that fails."""
    from phi3_lora_qa.adapter.chat_template.template_sandbox import explain, render

    try:
        template = environment.from_string(text)
        texts: list[str | dict[str, str]] = []
        for conversation in job["conversations"]:
            names = {**job["special_tokens"], **conversation, "tools": None, "documents": None}
            part = render(template, names, room)
            room -= len(part) if isinstance(part, str) else 0
            texts.append(part)
    except Exception as error:  # whatever a template does is what the answer tells
        return {"error": explain(error)}
    return {"texts": texts}


def _comparison(job: Mapping[str, Any], pair: list[int], clock: Any) -> dict[str, Any]:
    from phi3_lora_qa.adapter.chat_template.template_comparison import SECONDS, SlowError, compare
    from phi3_lora_qa.adapter.chat_template.template_sandbox import explain

    ours, theirs = (job["templates"][number] for number in pair)
    try:
        return compare(ours, theirs, job["special_tokens"], clock)
    except SlowError:
        return {"error": f"took longer than {SECONDS} s of computing time"}
    except Exception as error:  # whatever a template does is what the answer tells
        return {"error": explain(error)}


if __name__ == "__main__":
    main()
