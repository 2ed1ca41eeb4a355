"""The commands that the report shows to rerun the gate, safe to paste into a shell."""

import shlex

from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.record import RunRecord
from phi3_lora_qa.report.safe_text import visible
from phi3_lora_qa.setting_specs import SourceKind

_CHOSEN = (SourceKind.OPTION, SourceKind.ENVIRONMENT, SourceKind.DRAWN)

# A rerun repeats neither the selection of checks nor the folder of the report.
_LEFT_OUT = {"adapter", "report", "stage", "only", "allow_inconclusive"}


def rerun_all(record: RunRecord) -> str:
    """Return the command that runs the gate again on the same adapter."""
    return _join(["pytest", *_options(record)])


def rerun_check(record: RunRecord, identifier: str) -> str:
    """Return the command that runs one check again."""
    return _join(["pytest", identifier, *_options(record)])


def _options(record: RunRecord) -> list[str]:
    """Return the options that the user set or the run drew; files and defaults apply anyway."""
    given = record.settings.get("adapter")
    # With several adapters, ids contain the adapter's name, so all of them must be passed again.
    adapters = _values(given.value) if given else []
    options = [f"--phi3-adapter={a}" for a in (adapters if len(adapters) > 1 else [])]
    options = options or [f"--phi3-adapter={record.adapter.path}"]
    for name, entry in sorted(record.settings.items()):
        if entry.kind in _CHOSEN and name not in _LEFT_OUT:
            flag = "--phi3-" + name.replace("_", "-")
            options += [f"{flag}={value}" for value in _values(entry.value)]
    return options


def _values(value: Json) -> list[str]:
    if value is None:
        return []
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]


def _join(words: list[str]) -> str:
    # A line break or a direction mark in a name is made visible; the command then fails harmlessly.
    return " ".join(_quote(" ".join(visible(word).split())) for word in words)


def _quote(word: str) -> str:
    # One word: before pytest knows our options, it takes a separate value for a test path.
    flag, equals, value = word.partition("=")
    if word.startswith("--phi3-") and equals:
        return f"{flag}={shlex.quote(value)}"
    return shlex.quote(word)
