"""The commands that the report hands to its reader, safe to paste into a shell."""

import shlex

from phi3_lora_qa.record import Json, RunRecord
from phi3_lora_qa.report.safe_text import visible
from phi3_lora_qa.settings import DRAWN, ENVIRONMENT_PREFIX

# What a repetition must not carry over: how much to run, and where the report goes.
_LEFT_OUT = {"adapter", "report", "stage", "only", "allow_inconclusive"}


def rerun_all(record: RunRecord) -> str:
    """Return the command that gates the same adapter again."""
    return _join(["pytest", *_options(record)])


def rerun_check(record: RunRecord, identifier: str) -> str:
    """Return the command that runs one check again."""
    return _join(["pytest", identifier, *_options(record)])


def _options(record: RunRecord) -> list[str]:
    """Repeat what the user or the run chose; a file's settings and the defaults are found again."""
    given = record.settings.get("adapter")
    # Ids carry the adapter's name where several were gated, and are found only among the same.
    adapters = _listed(given.value) if given else []
    options = [f"--phi3-adapter={a}" for a in (adapters if len(adapters) > 1 else [])]
    options = options or [f"--phi3-adapter={record.adapter.path}"]
    for name, entry in sorted(record.settings.items()):
        chosen = entry.source.startswith(("--phi3-", ENVIRONMENT_PREFIX, DRAWN))
        if chosen and name not in _LEFT_OUT:
            flag = "--phi3-" + name.replace("_", "-")
            options += [f"{flag}={value}" for value in _listed(entry.value)]
    return options


def _listed(value: Json) -> list[str]:
    if value is None:
        return []
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]


def _join(words: list[str]) -> str:
    # A name may hold a line break or a direction mark: seen here, it runs nothing and fails.
    return " ".join(_quote(" ".join(visible(word).split())) for word in words)


def _quote(word: str) -> str:
    # One word: what stands apart, pytest takes for a path of tests until it knows our options.
    flag, equals, value = word.partition("=")
    if word.startswith("--phi3-") and equals:
        return f"{flag}={shlex.quote(value)}"
    return shlex.quote(word)
