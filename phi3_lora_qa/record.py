"""The run record: everything a gate run learned, as frozen dataclasses and as JSON.

``record.json`` is the whole truth of a run. The report is a pure function of it, so nothing may
reach a reader that does not stand here. ``schema_version`` rises when a reader must change.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.reading import read_text

SCHEMA_VERSION = 1
SCORED_CHECK = "phi3::quality::every_item_is_scored"
LARGEST = 64 << 20
"""Bytes of a record: a hundred times what a gate of the largest Phi-3 writes."""

Json = Any
"""A value that ``json`` can write. Kept as an alias so that signatures say what is meant."""


class Outcome(StrEnum):
    """What became of one check or one comparison."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    NOT_RUN = "not_run"


class Verdict(StrEnum):
    """What the gate says of one adapter; the worst of all adapters is the run's."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INCOMPLETE = "INCOMPLETE"
    PARTIAL = "PARTIAL"


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check found. ``measured`` holds the numbers behind the message."""

    id: str
    stage: str
    outcome: Outcome
    message: str
    fix: str = ""
    seconds: float = 0.0
    measured: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LimitEntry:
    """One quality limit: ``rule`` with ``value`` for ``metric`` in ``group``, ``against`` whom."""

    rule: str
    value: float
    against: str
    group: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of one group of items, base against tuned.

    ``difference`` is tuned minus base, the mean over ``n`` paired items; ``low`` and ``high`` are
    the interval that decides, by ``method``. ``limit`` is None where there is none.
    ``against`` is ``base``; or ``baseline``, and then ``base`` is the last accepted adapter's mean.
    """

    group: str
    metric: str
    base: float
    tuned: float
    difference: float
    low: float
    high: float
    method: str
    n: int
    limit: LimitEntry | None
    outcome: Outcome
    against: str = "base"


@dataclass(frozen=True, kw_only=True)
class ItemRow:
    """One question and what both models made of it; the rows are kept beside the record.

    ``prompt`` is the turns before the answer, rendered as text. Losses are mean nats per
    reference token over ``tokens`` tokens. ``scores`` maps the name of a metric that
    applies to the item to its values ``(base, tuned)``. ``base_error`` and ``tuned_error`` are
    empty unless scoring failed with that model.
    ``cluster`` names what the item shares with others, such as a document; empty for none.
    ``extras`` is JSON text of the item's choices and checks, which some scores are of; empty where
    it has neither.
    """

    id: str
    group: str
    prompt: str
    reference: str
    base_answer: str
    tuned_answer: str
    base_loss: float
    tuned_loss: float
    tokens: int
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    base_error: str = ""
    tuned_error: str = ""
    cluster: str = ""
    extras: str = ""

    @property
    def failed(self) -> bool:
        """Whether either model could not be scored on the item."""
        return bool(self.base_error or self.tuned_error)


@dataclass(frozen=True, kw_only=True)
class AdapterEntry:
    """Which adapter was gated: the bytes that were judged, not just where they lay."""

    path: str
    name: str
    sha256: Mapping[str, str]
    config: Mapping[str, Json]
    manifest: Mapping[str, Json] | None


@dataclass(frozen=True, kw_only=True)
class BaseEntry:
    """Which base it was compared with; ``fingerprint`` is empty where its files are not here."""

    id: str
    fingerprint: str
    config: Mapping[str, Json]


@dataclass(frozen=True, kw_only=True)
class SettingEntry:
    """One setting's value and where it came from (option, environment, file, default)."""

    value: Json
    source: str


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one phase took; ``tokens`` is 0 where the phase counts none."""

    phase: str
    seconds: float
    tokens: int = 0
    tokens_per_second: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The singular values of one module's delta = scaling · B·A, largest first."""

    module: str
    rank: int
    scaling: float
    frobenius: float
    stable_rank: float
    singular_values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything about one adapter's way through the gate."""

    verdict: Verdict
    reason: str
    adapter: AdapterEntry
    base: BaseEntry
    settings: Mapping[str, SettingEntry]
    checks: Sequence[CheckResult]
    metrics: Sequence[Metric]
    items: str
    spectra: Sequence[Spectrum]
    timings: Sequence[Timing]
    environment: Mapping[str, Json]
    started: str
    seconds: float
    schema_version: int = SCHEMA_VERSION

    def items_told(self, name: str) -> int:
        """Return how many items were ``scored``, or ``spared`` by an early end; 0 if untold."""
        for check in self.checks:
            told = check.measured if str(check.id).startswith(SCORED_CHECK) else {}
            count = told.get(name) if isinstance(told, Mapping) else None
            if type(count) is int and 0 < count < 1 << 40:
                return count
        return 0

    def to_json(self) -> str:
        """Return the record as strict JSON: a NaN or infinity becomes the string of its name."""
        return json.dumps(_plain(asdict(self)), indent=2, ensure_ascii=False, allow_nan=False)


def read_record(path: Path) -> RunRecord:
    """Read a record.json.

    Raises:
        InputError: The file is missing or too large, is no JSON, or is no record of this schema
            version.
    """
    try:
        text = read_text(path, LARGEST)
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    return parse_record(text, str(path))


def parse_record(text: str, where: str) -> RunRecord:
    """Build a record from the text of a record.json.

    Raises:
        InputError: The text is no JSON, or no record of this schema version.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, error) from error
    if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{where} is no record of schema version {SCHEMA_VERSION}; "
            "gate the adapter again with this version of phi3-lora-qa"
        )
    try:
        return RunRecord(
            **raw
            | {
                "verdict": Verdict(raw["verdict"]),
                "adapter": AdapterEntry(**raw["adapter"]),
                "base": BaseEntry(**raw["base"]),
                "settings": {k: SettingEntry(**v) for k, v in raw["settings"].items()},
                "checks": [check_from_json(c) for c in raw["checks"]],
                "metrics": [metric_from_json(m) for m in raw["metrics"]],
                "spectra": [spectrum_from_json(s) for s in raw["spectra"]],
                "timings": [Timing(**t) for t in raw["timings"]],
            }
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{where} is damaged ({escape(str(error))}); gate the adapter again for a new record"
        ) from error


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(
        f"cannot read the record {where}: {error}; give a record.json that the gate wrote"
    )


def check_from_json(raw: Mapping[str, Json]) -> CheckResult:
    """Build a CheckResult from its JSON form."""
    return CheckResult(**dict(raw) | {"outcome": Outcome(raw["outcome"])})


def metric_from_json(raw: Mapping[str, Json]) -> Metric:
    """Build a Metric from its JSON form."""
    limit = LimitEntry(**_floats(LimitEntry, raw["limit"])) if raw["limit"] else None
    return Metric(**_floats(Metric, raw) | {"outcome": Outcome(raw["outcome"]), "limit": limit})


def spectrum_from_json(raw: Mapping[str, Json]) -> Spectrum:
    """Build a Spectrum from its JSON form."""
    values = [float(value) for value in raw["singular_values"]]
    return Spectrum(**_floats(Spectrum, raw) | {"singular_values": values})


def item_from_json(raw: Mapping[str, Json]) -> ItemRow:
    """Build an ItemRow from its JSON form."""
    scores = {name: (float(pair[0]), float(pair[1])) for name, pair in raw["scores"].items()}
    return ItemRow(**_floats(ItemRow, raw) | {"scores": scores})


def to_plain(value: Json) -> Json:
    """Return a dataclass (or any nesting of JSON values) as strict JSON values."""
    return _plain(asdict(value) if hasattr(value, "__dataclass_fields__") else value)


def _floats(kind: type, raw: Mapping[str, Json]) -> dict[str, Json]:
    """Turn the names of non-finite numbers back into the numbers, for the float fields."""
    names = {f.name for f in fields(kind) if f.type is float}
    return {k: float(v) if k in names else v for k, v in raw.items()}


def _plain(value: Json) -> Json:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case str():
            return _writable(value)
        case Mapping():
            return {_writable(str(k)): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case bool() | int() | float() | None:
            return value
        case _:
            return str(value)


def _writable(text: str) -> str:
    """A model may answer with half a surrogate pair, which UTF-8 cannot hold."""
    return str(text).encode("utf-8", "replace").decode("utf-8")
