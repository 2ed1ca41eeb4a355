"""From the journal to the record: the verdict on each adapter and all measurements."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.adapter.folder import CONFIG, MANIFEST, AdapterFolder
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.dataclass_json import Json, hints_of, to_plain
from phi3_lora_qa.errors import AdapterError, BaseModelError, Phi3LoraQAError
from phi3_lora_qa.gate.gate_session import GateSession
from phi3_lora_qa.gate.journal import Evidence
from phi3_lora_qa.gate.machine_settings import describe_machine
from phi3_lora_qa.gate.plan import PlannedCheck
from phi3_lora_qa.gate.prepare import ITEMS_FILE, AdapterJob, snapshot_of
from phi3_lora_qa.gate.verdict import decide_verdict
from phi3_lora_qa.models.registry import base_fingerprint, read_base_config
from phi3_lora_qa.record import (
    BASE_CHECK,
    AdapterEntry,
    BaseEntry,
    BaseFinding,
    CheckResult,
    ItemRow,
    RunRecord,
    SettingEntry,
    Timing,
    UnseenTurns,
    Verdict,
)
from phi3_lora_qa.setting_specs import SPECS, STAGES, server_of
from phi3_lora_qa.settings import GateSettings

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "evaluate", "numpy", "pytest")
LARGEST_JSON = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One adapter's record, its item rows, and whether the process may exit with 0."""

    record: RunRecord
    rows: tuple[ItemRow, ...]
    accepted: bool


def build_records(
    run: GateSession, *, chosen: Sequence[PlannedCheck], partial: bool, started: str, seconds: float
) -> list[Reported]:
    """Return a record for each adapter.

    Args:
        run: The run, in the process that started it; its journal has the results of all processes.
        chosen: The checks that had to run.
        partial: Whether only selected checks were run.
        started: When the run started, ISO 8601 in UTC.
        seconds: How long it took.
    """
    results, evidence = run.journal.results(), run.journal.evidence()
    reported = []
    for index, target in enumerate(run.jobs):
        mine = [piece for piece in evidence if piece.adapter == index]
        decided = decide_verdict(
            [planned for planned in chosen if planned.adapter == index],
            [result for adapter, result in results if adapter == index],
            partial=partial,
            allow_inconclusive=run.settings.allow_inconclusive,
        )
        rows = tuple(next((piece.items for piece in mine if piece.items), ()))
        record = RunRecord(
            verdict=decided.verdict,
            reason=decided.reason + _left_out(run, index),
            adapter=_adapter(run, index, target),
            base=_base(target, decided.checks),
            settings=_settings(run.settings),
            checks=decided.checks,
            metrics=next((piece.metrics for piece in mine if piece.metrics), ()),
            items=ITEMS_FILE if rows else "",
            spectra=next((piece.spectra for piece in mine if piece.spectra), ()),
            timings=_summed([timing for piece in mine for timing in piece.timings]),
            environment=_environment(run, evidence),
            started=started,
            seconds=seconds,
        )
        reported.append(Reported(record=record, rows=rows, accepted=decided.accepted))
    return reported


def record_without_verdict(
    settings: GateSettings, *, name: str, source: Path, reason: str, started: str
) -> RunRecord:
    """Return the record of an adapter without a verdict.

    Args:
        settings: The known part of the run's settings.
        name: The adapter's name.
        source: Its folder; nothing in it is read.
        reason: Why there is no verdict.
        started: When the run started, ISO 8601 in UTC.
    """
    return RunRecord(
        verdict=Verdict.INCOMPLETE,
        reason=reason,
        adapter=AdapterEntry(path=_shown(source), name=name, sha256={}, config={}, manifest=None),
        base=BaseEntry(id="", fingerprint="", config={}),
        settings=_settings(settings),
        checks=(),
        metrics=(),
        items="",
        spectra=(),
        timings=(),
        environment={"python": platform.python_version(), "phi3-lora-qa": _version("phi3-lora-qa")},
        started=started,
        seconds=0.0,
    )


def _settings(settings: GateSettings) -> Mapping[str, SettingEntry]:
    return {
        spec.name: SettingEntry(
            value=_shown(getattr(settings, spec.name)),
            source=settings.sources[spec.name].place,
            kind=settings.sources[spec.name].kind,
        )
        for spec in SPECS
        if spec.name in settings.sources
    }


def _summed(timings: Sequence[Timing]) -> list[Timing]:
    """Return one timing for each phase, the sum of its parts."""
    phases: dict[str, list[Timing]] = {}
    for timing in timings:
        phases.setdefault(timing.phase, []).append(timing)
    found = []
    for phase, parts in phases.items():
        seconds, tokens = sum(part.seconds for part in parts), sum(part.tokens for part in parts)
        speed = tokens / seconds if tokens else 0.0
        found.append(Timing(phase=phase, seconds=seconds, tokens=tokens, tokens_per_second=speed))
    return found


def _left_out(run: GateSession, index: int) -> str:
    """Return a note on what the verdict does not cover; empty if it covers everything."""
    target = run.jobs[index]
    left = [stage for stage in STAGES if stage not in run.settings.stage]
    words = [f"stages not run: {', '.join(left)}"] if left else []
    softened = (*run.settings.lint_select, *run.settings.lint_ignore, *run.settings.lint_levels)
    if softened and "static" in run.settings.stage:
        words.append("settings select, ignore or re-level lint rules: see static::linter_completed")
    if "static" in run.settings.stage and "quality" in run.settings.stage:
        words += filter(None, [_unseen_items(run, index)])
    better = any(limit.rule != "no_worse_than" for limit in target.limits)
    if "quality" in run.settings.stage and target.items and not better:
        words.append("no limit requires an improvement over the base")
    return f" ({'; '.join(words)})" if words else ""


def _unseen_items(run: GateSession, index: int) -> str:
    try:
        return run.open_adapter(index).adapter.unseen_items
    except Phi3LoraQAError:  # the check of the base reported it
        return ""


def _adapter(run: GateSession, index: int, target: AdapterJob) -> AdapterEntry:
    folder = AdapterFolder.open(snapshot_of(run.folder, index))
    return AdapterEntry(
        path=_shown(target.source),
        name=target.name,
        sha256={name: folder.sha256(name) for name in folder.shipped},
        config=_json_file(folder, CONFIG) or {},
        manifest=_json_file(folder, MANIFEST),
    )


def _shown(value: object) -> Json:
    """Return a setting's value as the user would type it in this directory."""
    if isinstance(value, tuple):
        return [_shown(part) for part in value]
    if isinstance(value, Path):
        try:
            here = Path.cwd()
        except OSError:  # the directory was removed
            return str(value)
        return str(value.relative_to(here) if value.is_relative_to(here) else value)
    return to_plain(value)


def _json_file(folder: AdapterFolder, name: str) -> Mapping[str, Json] | None:
    """Return a JSON file of the adapter; None if it is invalid (a lint rule reports that)."""
    try:
        data = folder.read_bytes(name, LARGEST_JSON)
        return parse_object(data, where=name, max_bytes=LARGEST_JSON)
    except AdapterError:
        return None


def _base(target: AdapterJob, checks: Sequence[CheckResult]) -> BaseEntry:
    if target.base is None:
        return BaseEntry(id="", fingerprint="", config={})
    try:
        config, identity = read_base_config(target.base), base_fingerprint(target.base)
    except BaseModelError:
        config, identity = {}, ""
    measured = next((c.measured for c in checks if c.id.startswith(BASE_CHECK)), {})
    return BaseEntry(
        id=target.base.id,
        fingerprint=identity,
        config=config,
        findings=tuple(
            BaseFinding(**{name: found[name] for name in hints_of(BaseFinding)})
            for found in measured.get("findings", ())
        ),
        unseen=tuple(
            UnseenTurns(roles=tuple(found["roles"]), turns=tuple(found["turns"]))
            for found in measured.get("unseen", ())
        ),
    )


def _environment(run: GateSession, evidence: Sequence[Evidence]) -> Mapping[str, Json]:
    measured = {name: value for piece in evidence for name, value in piece.environment.items()}
    # Merging rounds the weights once more, so the figures of a merged model differ.
    scored = (
        "by the server"
        if server_of(run.settings.backend)
        else "adapter attached to the base, not merged"
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **describe_machine(run.settings),
        **({"scored": scored} if any(piece.items for piece in evidence) else {}),
        **{name: _version(name) for name in ("phi3-lora-qa", *PACKAGES)},
        **measured,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
