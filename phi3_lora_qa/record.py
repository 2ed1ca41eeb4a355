"""The run record: everything that a gate run found, as frozen dataclasses and as JSON.

``record.json`` is the only input of the report, so everything that a reader sees is a field here.
Fields hold data; sentences are made where they are shown (docs/decisions/0015).
``record.schema.json`` defines the file's format. ``SCHEMA_VERSION`` is increased whenever readers
must change.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from phi3_lora_qa.dataclass_json import Json, from_plain, to_plain
from phi3_lora_qa.errors import InputError, escape, reason_of
from phi3_lora_qa.function_arguments import require_path
from phi3_lora_qa.reading import read_text
from phi3_lora_qa.setting_specs import SourceKind

SCHEMA_VERSION = 2
BASE_CHECK = "phi3::static::basemodel"
SCORED_CHECK = "phi3::quality::every_item_is_scored"
LARGEST = 64 << 20
"""The largest size of a record in bytes: a hundred times that of a gate of the largest Phi-3."""

Rule = Literal["at_least", "at_most", "improve_by", "no_worse_than"]
Against = Literal["base", "baseline"]


class Outcome(StrEnum):
    """The outcome of one check, or of one comparison that has a limit."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    NOT_RUN = "not_run"


class Verdict(StrEnum):
    """The verdict on one adapter; the run's verdict is the worst of all adapters.

    Example:
        >>> from phi3_lora_qa import Verdict
        >>> Verdict("PASS") is Verdict.PASS
        True
    """

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INCOMPLETE = "INCOMPLETE"
    PARTIAL = "PARTIAL"


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of one check. ``measured`` holds the numbers in the message."""

    id: str
    stage: str
    outcome: Outcome
    message: str
    fix: str = ""
    seconds: float = 0.0
    measured: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LimitEntry:
    """A limit that a metric was checked against. ``value`` is in the metric's own unit.

    ``at_least`` and ``at_most`` bound the tuned mean; ``improve_by`` and ``no_worse_than`` compare
    it with ``against``.
    """

    rule: Rule
    value: float
    against: Against
    group: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of one group of items, for the base and the tuned model.

    ``difference`` is tuned minus base, the mean over ``n`` paired items; ``low`` and ``high`` are
    the interval of what ``limit`` bounds (the difference, or the tuned mean), computed by
    ``method``. ``limit`` and ``outcome`` are None if no limit was set. If ``against`` is
    ``baseline``, ``base`` is the mean of the last accepted adapter.
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
    outcome: Outcome | None
    against: Against = "base"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class ItemRow:
    """One item and the results of both models; the rows are stored next to the record.

    ``prompt`` is the turns before the answer. Losses are mean nats per reference token over
    ``tokens`` tokens. ``scores`` maps the name of a metric that applies to the item to its values
    ``(base, tuned)``. ``base_error`` and ``tuned_error`` are the reasons why that model has no
    score, empty if it has one. ``cluster`` names what the item shares with others, such as a
    document; empty for none. ``extras`` is JSON text of the item's choices and checks, which some
    scores depend on; empty if it has neither.
    """

    id: str
    group: str
    prompt: tuple[Turn, ...]
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
        """Whether one of the models could not be scored on this item."""
        return bool(self.base_error or self.tuned_error)


@dataclass(frozen=True, kw_only=True)
class AdapterEntry:
    """The adapter that was gated: where it was, and the hashes of the files that were checked."""

    path: str
    name: str
    sha256: Mapping[str, str]
    config: Mapping[str, Json]
    manifest: Mapping[str, Json] | None


@dataclass(frozen=True, kw_only=True)
class BaseFinding:
    """A finding about the base itself, and not about the adapter."""

    rule: str
    severity: str
    where: str
    message: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class UnseenTurns:
    """The turns that the base's chat template leaves out of a prompt with these roles.

    ``turns`` are positions from 0.
    """

    roles: tuple[str, ...]
    turns: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BaseEntry:
    """The base that it was compared with; ``fingerprint`` is empty if its files are not local.

    ``id`` is empty if there was no base. ``findings`` and ``unseen`` are empty if the static stage
    did not run.
    """

    id: str
    fingerprint: str
    config: Mapping[str, Json]
    findings: tuple[BaseFinding, ...] = ()
    unseen: tuple[UnseenTurns, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SettingEntry:
    """The value of one setting, where it was set, and what kind of place that is."""

    value: Json
    source: str
    kind: SourceKind


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one phase took; ``tokens`` is 0 if the phase does not count tokens."""

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
    """Everything that a run found about one adapter.

    Attributes:
        verdict: The verdict.
        reason: The reason for it, in one sentence.
        adapter: The adapter that was gated, with the hash of each file.
        base: The base that it was compared with.
        settings: Every setting by its name, with the source of its value.
        checks: The results of the checks.
        metrics: The metrics of each group, base compared with tuned model.
        items: The file name of the item rows, next to the record; empty if there are none.
        spectra: The singular values of each module's update.
        timings: The time of each phase, in seconds.
        environment: Versions, threads, dtype and instruction set.
        started: When the run started, ISO 8601 in UTC.
        seconds: The time of the whole run.
        schema_version: The version of the record's format.

    Example:
        >>> from phi3_lora_qa import gate_adapter
        >>> from phi3_lora_qa.models.paths import bundled
        >>> record = gate_adapter(bundled("tiny") / "adapter", base="tiny", stages=["static"])
        >>> {check.outcome.value for check in record.checks}
        {'passed'}
    """

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

    @property
    def items_scored(self) -> int:
        """How many items the tuned model was evaluated on; 0 if this was not recorded."""
        return self._item_count("scored")

    @property
    def items_skipped_early(self) -> int:
        """How many items early stopping skipped; 0 if this was not recorded."""
        return self._item_count("skipped_early")

    def _item_count(self, name: str) -> int:
        for check in self.checks:
            # With several adapters the id ends with the adapter's name in brackets.
            if check.id == SCORED_CHECK or check.id.startswith(f"{SCORED_CHECK}["):
                count = check.measured.get(name)
                if type(count) is int and 0 < count < 1 << 40:
                    return count
        return 0

    def to_json(self) -> str:
        """Return the record as strict JSON: a NaN or an infinity becomes a string."""
        return json.dumps(to_plain(self), indent=2, ensure_ascii=False, allow_nan=False)


def load_record(path: Path | str) -> RunRecord:
    """Load the record of a gate run from its ``record.json``.

    Args:
        path: The record, or the folder of the report.

    Returns:
        The record. Its item rows are in a separate file (``phi3_lora_qa.report.read_items``).

    Raises:
        InputError: The path is not one, the file is missing or too large, is not JSON, or is not a
            record of this schema version.

    Example:
        >>> from phi3_lora_qa.record import load_record
        >>> record = load_record("reports/sample")
        >>> str(record.verdict), record.metrics[0].limit.rule
        ('PASS', 'no_worse_than')
    """
    file = require_path(path, "path")
    try:
        file = file / "record.json" if file.is_dir() else file
        text = read_text(file, LARGEST)
    except (OSError, ValueError) as error:
        raise _unreadable(str(file), error) from error
    return parse_record(text, str(file))


def parse_record(text: str, where: str) -> RunRecord:
    """Build a record from the text of a record.json.

    Raises:
        InputError: The text is not JSON, or not a record of this schema version.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, error) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int:
        raise InputError(
            f"{where} is not a run record: it has no schema version; "
            "pass a record.json that the gate wrote"
        )
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{where} cannot be read: its schema version is {escape(str(version), 20)}, and this "
            f"version of phi3-lora-qa reads {SCHEMA_VERSION}; run the gate again: "
            f"{_gate_command(raw, where)}"
        )
    try:
        return from_plain(RunRecord, raw)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is damaged: {escape(str(error), 200)}; run the gate again for a new record: "
            f"{_gate_command(raw, where)}"
        ) from error


_REPEATED = (
    "base", "allow_bases", "any_base", "suite", "suite_columns", "thresholds", "metric", "profile",
    "baseline", "stage", "seed", "dtype", "device", "quantization", "backend", "lint_select",
    "lint_ignore", "lint_levels",
)  # fmt: skip
"""The settings without which a new record would be about something else."""


def _gate_command(raw: Mapping[str, Json], where: str) -> str:
    """Return the command that makes a new record, with what can be read of the old one."""
    adapter, settings = raw.get("adapter"), raw.get("settings")
    path = adapter.get("path") if isinstance(adapter, dict) else None
    words = ["pytest", "--phi3-only", f"--phi3-adapter={path or 'ADAPTER'}"]
    for name in _REPEATED:
        entry = settings.get(name) if isinstance(settings, dict) else None
        value = entry.get("value") if isinstance(entry, dict) else None
        if value and entry and entry.get("source") != "default":
            option = f"--phi3-{name.replace('_', '-')}"
            values = value if isinstance(value, list) else [value]
            words += [option if one is True else f"{option}={one}" for one in values]
    words.append(f"--phi3-report={Path(where).parent}")
    return " ".join(shlex.quote(escape(word, 300)) for word in words)


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(
        f"cannot read the record {where}: {reason_of(error)}; "
        "pass a record.json that the gate wrote"
    )
