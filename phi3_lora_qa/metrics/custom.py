"""A user's own metrics: a class, or the path of an ``evaluate`` module.

Both are ``evaluate`` modules. A class that derives from ``AnswerMetric`` scores all pairs in one
call. Any other module is called once for each pair, since the gate needs one score per item.
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

from phi3_lora_qa.errors import DataError, escape, reason_of
from phi3_lora_qa.reading import read_regular, require_regular
from phi3_lora_qa.unicode_surrogates import escape_surrogates

LARGEST = 1e60
"""Largest score without a span: powers of scores must stay finite in the comparison."""

_MOST_SOURCE_BYTES = 16 << 20
_FORMS = "pass MODULE:CLASS, or the path of an evaluate module"


def find_custom(text: str, start: Path) -> tuple[str, str]:
    """Return the metric's name and its import path: ``MODULE:CLASS``, or an absolute path.

    Only the packages that contain the module are imported.

    Raises:
        DataError: There is no such metric, or its name is not usable.
    """
    module, colon, name = text.rpartition(":")
    if colon and name.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        source = _source(module)
        if source is not None and not re.search(rf"\b{name}\b", source):
            raise DataError(f"the module {escape(module, 80)} has no class {name}; {_FORMS}")
        return name, text
    path = start / os.path.expanduser(text)  # noqa: PTH111  pathlib's raises for unknown users
    script = path / f"{path.name}.py" if os.path.isdir(path) else path  # noqa: PTH112
    if script.suffix != ".py" or not os.path.isfile(script):  # noqa: PTH113  pathlib's may raise
        raise DataError(f"there is no metric {escape(text, 200)}; {_FORMS}")
    try:
        require_regular(script, _MOST_SOURCE_BYTES)
    except OSError as error:
        raise DataError(
            f"cannot read the metric {escape(text, 200)}: {reason_of(error)}; {_FORMS}"
        ) from error
    if not script.stem.isidentifier():
        raise DataError(
            f"{escape(script.stem, 80)} cannot be the name of a metric; rename the script, with "
            "letters, digits and underscores only"
        )
    return script.stem, str(path.resolve())


def source_file(import_path: str) -> Path | None:
    """Return the file or folder that a metric is loaded from; None if it is unknown."""
    if Path(import_path).is_absolute():
        return Path(import_path)
    spec = importlib.util.find_spec(import_path.partition(":")[0])
    return Path(spec.origin) if spec and spec.origin else None


def score_range(import_path: str) -> tuple[bool, tuple[float, float] | None]:
    """Return whether a metric's scores are 0 or 1, and their span (None if unbounded).

    Raises:
        DataError: The metric cannot be loaded, or its span is invalid.
    """
    module = _load(import_path)
    binary, span = bool(getattr(module, "binary", False)), getattr(module, "span", None)
    if binary or span is None:
        return binary, (0.0, 1.0) if binary else None
    try:
        low, high = map(float, span)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -LARGEST <= low < high <= LARGEST:
        raise DataError(
            f"the metric {escape(import_path, 200)} has the span {escape(repr(span), 80)}; set the "
            f"smallest and the largest score, such as (0.0, 1.0), at most {LARGEST:g}, or None"
        )
    return False, (low, high)


def compute_custom(
    import_path: str, names: Sequence[str], answers: Sequence[str], references: Sequence[str]
) -> list[float]:
    """Score each pair of an answer and a reference.

    Args:
        import_path: The metric.
        names: The items' ids, for the message.
        answers: What a model wrote.
        references: What was expected.

    Raises:
        DataError: The metric cannot be loaded, fails, or does not return one finite number within
            its span for each pair.
    """
    binary, span = score_range(import_path)
    try:
        scores = _scores(import_path, answers, references)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        at = _first_failure(import_path, names, answers, references)
        raise DataError(
            f"the metric {escape(import_path, 200)} failed{at} ({type(error).__name__}: "
            f"{escape(str(error), 200)}); fix the metric"
        ) from error
    if len(scores) != len(answers):
        raise DataError(
            f"the metric {escape(import_path, 200)} returned {len(scores)} scores for "
            f"{len(answers)} answers; return one for each"
        )
    low, high = span or (-LARGEST, LARGEST)
    for name, score in zip(names, scores, strict=True):
        if not low <= score <= high or (binary and score not in (0.0, 1.0)):
            kind = "0 or 1" if binary else f"a number from {low:g} to {high:g}"
            other = "change its span and binary" if span else "scale its scores down"
            raise DataError(
                f"the metric {escape(import_path, 200)} returned {score:g} for the item "
                f"{escape(name, 60)}, which is not {kind}; fix the metric, or {other}"
            )
    return scores


def _scores(import_path: str, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    from phi3_lora_qa.metrics.modules import AnswerMetric, score_pairs

    module = _load(import_path)
    if isinstance(module, AnswerMetric):
        return score_pairs(module, answers, references)
    pairs = zip(map(escape_surrogates, answers), map(escape_surrogates, references), strict=True)
    return [
        _number(module.compute(predictions=[answer], references=[reference]), import_path)
        for answer, reference in pairs
    ]


def _first_failure(
    import_path: str, names: Sequence[str], answers: Sequence[str], references: Sequence[str]
) -> str:
    """Return " at the item ID" for the first item on which the metric fails alone, else ""."""
    for name, answer, reference in zip(names, answers, references, strict=True):
        try:
            _scores(import_path, [answer], [reference])
        except (Exception, SystemExit):  # any error, as before
            return f" at the item {escape(name, 60)}"
    return ""


def _source(module: str) -> str | None:
    """Return a module's source; None if it is not a Python file."""
    try:
        spec = importlib.util.find_spec(module)
    except ImportError as error:
        raise DataError(
            f"there is no module {escape(module, 80)} ({escape(str(error), 200)}); {_FORMS}"
        ) from error
    except (Exception, SystemExit) as error:  # a package that contains it may raise anything
        raise DataError(
            f"the package of the module {escape(module, 80)} cannot be imported "
            f"({type(error).__name__}: {escape(str(error), 200)}); fix the package"
        ) from error
    if spec is None:
        raise DataError(
            f"there is no module {escape(module, 80)}; add its folder to the import path, for "
            f"example with pytest's pythonpath, or {_FORMS}"
        )
    if not spec.origin or not spec.origin.endswith(".py"):
        return None
    try:
        return read_regular(spec.origin, _MOST_SOURCE_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(
            f"cannot read {escape(spec.origin, 200)}: {reason_of(error)}; {_FORMS}"
        ) from error


@cache
def _load(import_path: str) -> Any:
    """Return an instance of the metric, created once per process."""
    import evaluate

    from phi3_lora_qa.metrics.modules import in_memory

    with in_memory() as options:
        try:
            if Path(import_path).is_absolute():
                module = evaluate.load(import_path, keep_in_memory=True, seed=0)
            else:
                name, _, kind = import_path.partition(":")
                module = getattr(importlib.import_module(name), kind)(**options)
        except (Exception, SystemExit) as error:  # a user's code may raise anything
            raise DataError(
                f"the metric {escape(import_path, 200)} cannot be loaded ({type(error).__name__}: "
                f"{escape(str(error), 200)}); fix the metric"
            ) from error
    if not isinstance(module, evaluate.Metric):
        raise DataError(
            f"{escape(import_path, 200)} is not a metric; derive it from "
            "phi3_lora_qa.metrics.AnswerMetric, or from evaluate.Metric"
        )
    return module


def _number(result: Mapping[str, Any] | None, import_path: str) -> float:
    """Return the number under the metric's name in a result, or its only number."""
    values = result or {}
    path = Path(import_path)
    name = path.stem if path.is_absolute() else import_path.rpartition(":")[2]
    numbers = {k: v for k, v in values.items() if isinstance(v, Real)}  # also numpy's
    if name not in numbers and len(numbers) != 1:
        raise DataError(
            f"the metric {escape(import_path, 200)} returned "
            f"{', '.join(map(str, values)) or 'nothing'} instead of one number; "
            f"return one number, or one under the name {name}"
        )
    return float(numbers[name] if name in numbers else next(iter(numbers.values())))
