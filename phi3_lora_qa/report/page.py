"""The record arranged for a reader: what stands where on the page, and in which order.

Everything that decides what a reader sees is decided here, in plain data; the template only
writes it down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.record import (
    CheckResult,
    ItemRow,
    Json,
    Outcome,
    RunRecord,
)
from phi3_lora_qa.report.item_views import DIFFERENT, IMPROVED, REGRESSED, ItemView, item_views
from phi3_lora_qa.report.metric_views import MetricView, metric_groups
from phi3_lora_qa.report.outcome_words import MARKS, OUTCOME_MARKS, items_asked, next_step, word_of
from phi3_lora_qa.report.rerun_commands import rerun_all, rerun_check
from phi3_lora_qa.report.safe_text import anchor, to_float
from phi3_lora_qa.report.spectrum_views import KindView, kind_views

_URGENCY = (Outcome.FAILED, Outcome.ERROR, Outcome.NOT_RUN, Outcome.INCONCLUSIVE)


@dataclass(frozen=True, kw_only=True)
class CheckView:
    """One check; ``name`` is what stands behind the stage in its id."""

    anchor: str
    name: str
    result: CheckResult
    mark: str
    word: str
    rerun: str


@dataclass(frozen=True, kw_only=True)
class TodoView:
    """One thing to do, for all the checks that say the same."""

    checks: tuple[CheckView, ...]
    rerun: str

    @property
    def first(self) -> CheckView:
        """The check that speaks for all of them."""
        return self.checks[0]


@dataclass(frozen=True, kw_only=True)
class StageView:
    """One stage; ``tally`` counts its outcomes in words, and the worst gives it its colour."""

    name: str
    checks: tuple[CheckView, ...]
    tally: str
    worst: CheckView
    held: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FilterView:
    """One filter of the items; an empty ``flag`` shows them all."""

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
    asked: str
    filters: tuple[FilterView, ...]
    kinds: tuple[KindView, ...]


def build_page(record: RunRecord, rows: Sequence[ItemRow]) -> Page:
    """Arrange a record and its items."""
    checks = [_check(record, result) for result in record.checks]
    items = item_views(rows)
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
        items=items,
        item_count=len(rows),
        asked=items_asked(record) or str(len(rows) or "none"),
        filters=_filters(items),
        kinds=kind_views(record.spectra),
    )


def todo_results(results: Sequence[CheckResult]) -> list[list[CheckResult]]:
    """Gather what is to be done: the worst first, one entry for checks that say the same."""
    gathered: dict[tuple[Outcome, str, str], list[CheckResult]] = {}
    for outcome in _URGENCY:
        for result in results:
            if result.outcome is outcome:
                # A fix that names its own check differs from check to check in nothing else.
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
            held=all(view.result.outcome is Outcome.PASSED for view in views),
            seconds=sum(to_float(view.result.seconds) for view in views),
        )
        for name, views in stages.items()
    )


def _urgency(view: CheckView) -> int:
    return (*_URGENCY, Outcome.PASSED).index(view.result.outcome)


def _filters(items: Sequence[ItemView]) -> tuple[FilterView, ...]:
    def count(flag: str) -> int:
        return sum(flag in item.flags for item in items)

    return (
        FilterView(flag="", label="All", count=len(items)),
        *(FilterView(flag=f, label=f.capitalize(), count=count(f)) for f in _FILTERS),
    )


_FILTERS = (REGRESSED, IMPROVED, DIFFERENT)


def rows_of(values: Json) -> list[tuple[str, Json]]:
    """Return the pairs of a mapping in the order of their names."""
    return sorted((str(key), value) for key, value in values.items())
