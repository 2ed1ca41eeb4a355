"""The record arranged for a reader: the content of the page and its order.

Everything that a reader sees is decided here, as plain data; the template only renders it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phi3_lora_qa.data.thresholds import WATCHED
from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.record import CheckResult, ItemRow, Outcome, RunRecord
from phi3_lora_qa.report.item_views import (
    FLAGS,
    ItemView,
    count_flags,
    item_views,
    labelling_metrics,
)
from phi3_lora_qa.report.metric_views import MetricView, metric_groups
from phi3_lora_qa.report.outcome_words import (
    MARKS,
    OUTCOME_MARKS,
    items_evaluated,
    next_step,
    word_of,
)
from phi3_lora_qa.report.rerun_commands import rerun_all, rerun_check
from phi3_lora_qa.report.safe_text import anchor, to_float
from phi3_lora_qa.report.spectrum_views import KindView, kind_views
from phi3_lora_qa.setting_specs import LOCAL_BACKEND

_URGENCY = (Outcome.FAILED, Outcome.ERROR, Outcome.NOT_RUN, Outcome.INCONCLUSIVE)


@dataclass(frozen=True, kw_only=True)
class CheckView:
    """One check; ``name`` is the part of its id after the stage."""

    anchor: str
    name: str
    result: CheckResult
    mark: str
    word: str
    rerun: str


@dataclass(frozen=True, kw_only=True)
class TodoView:
    """One thing to do, for all the checks with the same message and fix."""

    checks: tuple[CheckView, ...]
    rerun: str

    @property
    def first(self) -> CheckView:
        """The check that represents all of them."""
        return self.checks[0]


@dataclass(frozen=True, kw_only=True)
class StageView:
    """One stage; ``tally`` counts its outcomes in words, and the worst check sets its colour."""

    name: str
    checks: tuple[CheckView, ...]
    tally: str
    worst: CheckView
    passed: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FilterView:
    """One filter of the items and its number of matches; an empty ``flag`` matches all."""

    flag: str
    label: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole page."""

    record: RunRecord
    mark: str
    reason: str
    next_step: str
    rerun: str
    tally: str
    todo: tuple[TodoView, ...]
    groups: tuple[tuple[str, tuple[MetricView, ...]], ...]
    stages: tuple[StageView, ...]
    items: tuple[ItemView, ...]
    item_count: int
    labelled_by: str
    evaluated: str
    device: str
    filters: tuple[FilterView, ...]
    kinds: tuple[KindView, ...]
    base_notes: str


def build_page(record: RunRecord, rows: Sequence[ItemRow]) -> Page:
    """Arrange a record and its items."""
    checks = [_check(record, result) for result in record.checks]
    labelling = labelling_metrics(record.metrics)
    limited = {name: None for found in labelling.values() for name in sorted(found)}
    return Page(
        record=record,
        mark=MARKS[record.verdict],
        reason=record.reason[:1].upper() + record.reason[1:],
        next_step=next_step(record),
        rerun=rerun_all(record),
        tally=_tally(record.checks),
        todo=_todo(checks, rerun_all(record)),
        groups=metric_groups(record.metrics),
        stages=_stages(checks),
        items=item_views(rows, labelling, record.base.unseen),
        item_count=len(rows),
        labelled_by=", ".join(dict.fromkeys((*WATCHED, *limited))),
        evaluated=items_evaluated(record) or str(len(rows) or "none"),
        device=device(record),
        filters=_filters(len(rows), count_flags(rows, labelling)),
        kinds=kind_views(record.spectra),
        base_notes=base_notes(record),
    )


def base_notes(record: RunRecord) -> str:
    """Return the number of findings about the base, such as ``1 warning``; empty for none."""
    counts = Counter(finding.severity for finding in record.base.findings)
    parts = (f"{n} {severity}{'s' * (n != 1)}" for severity, n in counts.items())
    return ", ".join(parts)


def device(record: RunRecord) -> str:
    """Return where and in which dtype models ran, such as ``cpu, float32``; empty if none ran."""
    backend = record.settings.get("backend")
    if not record.timings or (backend and backend.value != LOCAL_BACKEND):
        return ""  # no model ran, or a server scored the items
    names = ("device", "dtype", "quantization")
    return ", ".join(
        str(record.environment[name]) for name in names if record.environment.get(name)
    )


def todo_results(results: Sequence[CheckResult]) -> list[list[CheckResult]]:
    """Return the checks to fix, worst first; those with the same message and fix are one entry."""
    gathered: dict[tuple[Outcome, str, str], list[CheckResult]] = {}
    for outcome in _URGENCY:
        for result in results:
            if result.outcome is outcome:
                # Fixes may contain the check's id, and are otherwise the same.
                key = (outcome, result.message, result.fix.replace(result.id, ""))
                gathered.setdefault(key, []).append(result)
    return list(gathered.values())


def _check(record: RunRecord, result: CheckResult) -> CheckView:
    name = result.id.removeprefix("phi3::").removeprefix(f"{result.stage}::")
    return CheckView(
        anchor=anchor("check", f"{result.stage}.{name}"),
        name=name,
        result=result,
        mark=OUTCOME_MARKS[result.outcome],
        word=word_of(result.outcome),
        rerun=rerun_check(record, result.id),
    )


def _todo(checks: Sequence[CheckView], whole: str) -> tuple[TodoView, ...]:
    views = {view.result.id: view for view in checks}
    entries = [
        tuple(views[result.id] for result in results)
        for results in todo_results([view.result for view in checks])
    ]
    return tuple(
        TodoView(checks=entry, rerun=entry[0].rerun if len(entry) == 1 else whole)
        for entry in entries
    )


def _tally(results: Sequence[CheckResult]) -> str:
    counts = {outcome: sum(r.outcome is outcome for r in results) for outcome in Outcome}
    return ", ".join(f"{n} {word_of(outcome)}" for outcome, n in counts.items() if n)


def _stages(checks: Sequence[CheckView]) -> tuple[StageView, ...]:
    names = dict.fromkeys(view.result.stage for view in checks)
    stages = {name: tuple(v for v in checks if v.result.stage == name) for name in names}
    return tuple(
        StageView(
            name=name,
            checks=views,
            tally=_tally([view.result for view in views]),
            worst=min(views, key=_urgency),
            passed=all(view.result.outcome is Outcome.PASSED for view in views),
            seconds=sum(to_float(view.result.seconds) for view in views),
        )
        for name, views in stages.items()
    )


def _urgency(view: CheckView) -> int:
    return (*_URGENCY, Outcome.PASSED).index(view.result.outcome)


def _filters(total: int, counts: Mapping[str, int]) -> tuple[FilterView, ...]:
    return (
        FilterView(flag="", label="All", count=total),
        *(FilterView(flag=flag, label=flag.capitalize(), count=counts[flag]) for flag in FLAGS),
    )


def rows_of(values: Json) -> list[tuple[str, Json]]:
    """Return the pairs of a mapping, sorted by name."""
    return sorted((str(key), value) for key, value in values.items())
