"""Metrics of the user's own: a class, or the path of an ``evaluate`` module.

Both are ``evaluate`` modules. One that derives from ``AnswerMetric`` scores each pair; any other is
asked for each pair alone, as a gate compares pair by pair.
"""

import importlib
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

from phi3_lora_qa.errors import DataError, escape
from phi3_lora_qa.reading import read_regular, require_regular

LARGEST = 1e60
"""Of a score without a span: its powers must still be numbers when scores are compared."""

_MOST_OF_SOURCE = 16 << 20
_FORMS = "give MODULE:CLASS, or the path of an evaluate module"


def find_custom(text: str, start: Path) -> tuple[str, str]:
    """Return the metric's name and its place: ``MODULE:CLASS``, or an absolute path.

    Nothing is imported but the packages above the module.

    Raises:
        DataError: It is in no such place, or has no usable name.
    """
    module, colon, name = text.rpartition(":")
    if colon and name.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        source = _source(module)
        if source is not None and not re.search(rf"\b{name}\b", source):
            raise DataError(f"the module {escape(module, 80)} has no class {name}; {_FORMS}")
        return name, text
    path = start / os.path.expanduser(text)  # noqa: PTH111  pathlib's raises for unknown users
    script = path / f"{path.name}.py" if os.path.isdir(path) else path  # noqa: PTH112
    if script.suffix != ".py" or not os.path.isfile(script):  # noqa: PTH113  whatever the name is
        raise DataError(f"there is no metric {escape(text, 200)}; {_FORMS}")
    try:
        require_regular(script, _MOST_OF_SOURCE)
    except OSError as error:
        raise DataError(f"cannot read the metric {escape(text, 200)}: {error}; {_FORMS}") from error
    if not script.stem.isidentifier():
        raise DataError(
            f"{escape(script.stem, 80)} cannot be the name of a metric; call the script by a word "
            "of letters, digits and underscores"
        )
    return script.stem, str(path.resolve())


def file_of(place: str) -> Path | None:
    """Return the file or folder that a metric is read from, where that can be told."""
    if Path(place).is_absolute():
        return Path(place)
    spec = importlib.util.find_spec(place.partition(":")[0])
    return Path(spec.origin) if spec and spec.origin else None


def bounds_of(place: str) -> tuple[bool, tuple[float, float] | None]:
    """Return whether its scores are 0 or 1, and between what they lie; None where nothing is known.

    Raises:
        DataError: It cannot be loaded, or its span is none.
    """
    module = _load(place)
    binary, span = bool(getattr(module, "binary", False)), getattr(module, "span", None)
    if binary or span is None:
        return binary, (0.0, 1.0) if binary else None
    try:
        low, high = map(float, span)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -LARGEST <= low < high <= LARGEST:
        raise DataError(
            f"the metric {escape(place, 200)} has the span {escape(repr(span), 80)}; give the "
            f"smallest and the largest score, such as (0.0, 1.0) and none beyond {LARGEST:g}, or "
            "None"
        )
    return False, (low, high)


def compute_custom(
    place: str, names: Sequence[str], answers: Sequence[str], references: Sequence[str]
) -> list[float]:
    """Score each pair.

    Args:
        place: The metric.
        names: The items' ids, for the message.
        answers: What a model wrote.
        references: What was expected.

    Raises:
        DataError: It cannot be loaded, or its scores are not one number for each pair, finite and
            within its span.
    """
    binary, span = bounds_of(place)
    try:
        scores = _scores(place, answers, references)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # another's code raises what it likes
        at = _first_broken(place, names, answers, references)
        raise DataError(
            f"the metric {escape(place, 200)} failed{at} ({type(error).__name__}: "
            f"{escape(str(error), 200)}); mend it"
        ) from error
    if len(scores) != len(answers):
        raise DataError(
            f"the metric {escape(place, 200)} gave {len(scores)} scores for {len(answers)} "
            "answers; mend it, so that it gives one for each"
        )
    low, high = span or (-LARGEST, LARGEST)
    for name, score in zip(names, scores, strict=True):
        if not low <= score <= high or (binary and score not in (0.0, 1.0)):
            kind = "0 or 1" if binary else f"a number from {low:g} to {high:g}"
            other = "say otherwise in its span and binary" if span else "scale its scores down"
            raise DataError(
                f"the metric {escape(place, 200)} gave {score:g} for the item "
                f"{escape(name, 60)}, which is not {kind}; mend it, or {other}"
            )
    return scores


def _scores(place: str, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    from phi3_lora_qa.metrics.modules import AnswerMetric, each, storable

    module = _load(place)
    if isinstance(module, AnswerMetric):
        return each(module, answers, references)
    return [
        _number(module.compute(predictions=[storable(a)], references=[storable(r)]), place)
        for a, r in zip(answers, references, strict=True)
    ]


def _first_broken(
    place: str, names: Sequence[str], answers: Sequence[str], references: Sequence[str]
) -> str:
    """Say at which item the metric fails, where it does so for that item alone."""
    for name, answer, reference in zip(names, answers, references, strict=True):
        try:
            _scores(place, [answer], [reference])
        except (Exception, SystemExit):  # whatever it was that failed before
            return f" at the item {escape(name, 60)}"
    return ""


def _source(module: str) -> str | None:
    """Return a module's source; None where it has none that can be read."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError as error:
        raise DataError(
            f"there is no module {escape(module, 80)} ({escape(str(error), 200)}); {_FORMS}"
        ) from error
    except (Exception, SystemExit) as error:  # whatever a package above it does
        raise DataError(
            f"the package of the module {escape(module, 80)} cannot be imported "
            f"({type(error).__name__}: {escape(str(error), 200)}); mend it"
        ) from error
    if spec is None:
        raise DataError(
            f"there is no module {escape(module, 80)}; put its folder on the path, as with "
            f"pytest's pythonpath, or {_FORMS}"
        )
    if not spec.origin or not spec.origin.endswith(".py"):
        return None
    try:
        return read_regular(spec.origin, _MOST_OF_SOURCE).decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {escape(spec.origin, 200)}: {error}; {_FORMS}") from error


@cache
def _load(place: str) -> Any:
    """Return an instance of the metric, made once a process."""
    import evaluate

    from phi3_lora_qa.metrics.modules import in_memory

    with in_memory() as options:
        try:
            if Path(place).is_absolute():
                module = evaluate.load(place, keep_in_memory=True, seed=0)
            else:
                name, _, kind = place.partition(":")
                module = getattr(importlib.import_module(name), kind)(**options)
        except (Exception, SystemExit) as error:  # whatever another's code does when imported
            raise DataError(
                f"the metric {escape(place, 200)} cannot be loaded ({type(error).__name__}: "
                f"{escape(str(error), 200)}); mend it"
            ) from error
    if not isinstance(module, evaluate.Metric):
        raise DataError(
            f"{escape(place, 200)} is no metric; derive it from "
            "phi3_lora_qa.metrics.modules.AnswerMetric, or from evaluate.Metric"
        )
    return module


def _number(result: Mapping[str, Any] | None, place: str) -> float:
    """Return the one number of a result: the one under the metric's name, else the only one."""
    values = result or {}
    name = Path(place).stem if Path(place).is_absolute() else place.rpartition(":")[2]
    numbers = {k: v for k, v in values.items() if isinstance(v, Real)}  # numpy's too
    if name not in numbers and len(numbers) != 1:
        raise DataError(
            f"the metric {escape(place, 200)} gives {', '.join(map(str, values)) or 'nothing'}, "
            f"and not one number; give one, or one under the name {name}"
        )
    return float(numbers[name] if name in numbers else next(iter(numbers.values())))
