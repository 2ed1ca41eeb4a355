"""Prepares the jobs of a run from its settings, before anything runs and without torch.

Bad input ends the run here with a one-line error: a path without an adapter, a base that is not a
Phi-3, a suite that cannot be read. The jobs are the same in every process of the run.
"""

import itertools
import pickle
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.adapter.config import read_config
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.parent_adapter import open_parent
from phi3_lora_qa.adapter.rule_selection import selection_of
from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.data.suite import read_suite, without_duplicates
from phi3_lora_qa.data.thresholds import (
    BASELINE,
    Limit,
    baseline_limits,
    default_limits,
    expand,
    read_thresholds,
)
from phi3_lora_qa.errors import AdapterError, BaseModelError, InputError, escape
from phi3_lora_qa.gate.baseline import read_baseline
from phi3_lora_qa.metrics import RequestedMetric, find_metric, known_metrics, share_metrics
from phi3_lora_qa.models.registry import (
    BaseRef,
    bundled_suite,
    bundled_thresholds,
    cache_folder,
    known_bases,
    read_base_config,
    require_phi,
    resolve_base,
)
from phi3_lora_qa.record import ItemRow
from phi3_lora_qa.settings import DEFAULT, GateSettings, real, reject_if_inside

_HANDED = "jobs.pickle"
ITEMS_FILE = "items.parquet"


@dataclass(frozen=True, kw_only=True)
class AdapterJob:
    """One adapter to gate, with the base and the items with which it is compared.

    Attributes:
        name: Its name in test ids and reports.
        source: The folder that the user passed.
        listing: Its content when the run began, with the files that were not copied.
        base: The trusted base; None if there is none.
        base_missing: Why there is no base, with the fix; empty if there is one.
        items: The quality items, without duplicates.
        copies: How many items were left out as duplicates.
        limits: The limits, one for each group and metric.
        metrics: What is measured in addition to the default metrics and those with limits.
        any_base: Whether the base may be another model than a Phi-3.
        baseline: The last accepted adapter's rows of the same items; empty without one.
        parent: The content of the folder of the adapter that this one was trained from; None if it
            is not compared with one.
    """

    name: str
    source: Path
    listing: AdapterFolder
    base: BaseRef | None
    base_missing: str
    items: tuple[Item, ...]
    copies: int
    limits: tuple[Limit, ...]
    metrics: tuple[RequestedMetric, ...] = ()
    any_base: bool = False
    baseline: tuple[ItemRow, ...] = ()
    parent: AdapterFolder | None = None

    def require_base(self) -> BaseRef:
        """Return the base.

        Raises:
            BaseModelError: There is none.
        """
        if self.base is None:
            raise BaseModelError(self.base_missing)
        return self.base


def prepare(settings: GateSettings) -> tuple[AdapterJob, ...]:
    """Return a job for each adapter that the settings name.

    Raises:
        InputError: A path, base, suite or thresholds file cannot be used.
    """
    selection_of(settings)  # refuse a bad selection, too
    _reject_inputs_inside_adapters(settings, None)
    metrics = _metrics(settings)
    known = tuple(dict.fromkeys((*known_metrics(), *(metric.name for metric in metrics))))
    shares, path = share_metrics(), settings.thresholds
    own_limits = read_thresholds(path, known, shares) if path else None
    given = _given_suite(settings)
    parent = _parent(settings)
    jobs = []
    for name, source in zip(adapter_names(settings.adapter), settings.adapter, strict=True):
        listing = AdapterFolder.open(source)
        base, missing = _base_of(listing, settings)
        _reject_inputs_inside_adapters(settings, base)
        if given is not None:
            items: tuple[Item, ...] = given
        else:
            items = read_suite([bundled_suite(base)]) if base else ()
        distinct = without_duplicates(items)
        limits, built_in = own_limits, settings.sources["profile"] == DEFAULT
        if limits is None and given is None and base and built_in:
            limits = read_thresholds(bundled_thresholds(base), known, shares)
        groups = sorted({item.group for item in distinct})
        if limits is None:
            limits = default_limits(groups, settings.profile)
        if settings.baseline and not any(limit.against == BASELINE for limit in limits):
            limits += baseline_limits(settings.profile)
        jobs.append(
            AdapterJob(
                name=name,
                source=source,
                listing=listing,
                base=base,
                base_missing=missing,
                items=distinct,
                copies=len(items) - len(distinct),
                limits=expand(limits, groups),
                metrics=metrics,
                any_base=settings.any_base,
                baseline=read_baseline(settings.baseline, distinct, base, settings)
                if settings.baseline and base
                else (),
                parent=parent,
            )
        )
    return tuple(jobs)


def _reject_inputs_inside_adapters(settings: GateSettings, base: BaseRef | None) -> None:
    """Refuse suites, limits, baselines and bases in an adapter's folder."""
    baseline = settings.baseline
    places: dict[str, Sequence[Path | None]] = {
        "items of the suite": [Path(path) for path in settings.suite],
        "limits": [settings.thresholds],
        # The items are looked for next to the record, not next to the target of a link to it.
        "figures of the baseline": [baseline, baseline and baseline.with_name(ITEMS_FILE)],
        "weights of the parent": [settings.parent],
        "cached scores of the base": [cache_folder()],
        "files of the base": [base.folder if base else None],
    }
    for what, paths in places.items():
        for path in filter(None, paths):
            for place in (path, *_files_in(path)):
                reject_if_inside(settings.adapter, place, what, "use files outside of it")


def _files_in(path: Path) -> Iterator[Path]:
    """Yield the files of a folder: they may be links to another folder, as in a hub's cache."""
    with suppress(OSError, ValueError):
        yield from (entry for entry in path.iterdir() if not entry.is_dir())


def _parent(settings: GateSettings) -> AdapterFolder | None:
    """Return the listing of the parent's folder, whose weights can be read."""
    if settings.parent is None:
        return None
    if "static" not in settings.stage:
        raise InputError(
            "--phi3-parent is set, but the stage static, which compares the adapter with its "
            "parent, does not run; add --phi3-stage=static, or remove --phi3-parent"
        )
    try:
        folder = AdapterFolder.open(settings.parent)
    except AdapterError as error:
        raise InputError(f"the parent: {error}") from error
    open_parent(folder)
    return folder


def _given_suite(settings: GateSettings) -> tuple[Item, ...] | None:
    if settings.suite:
        return read_suite([Path(path) for path in settings.suite], settings.suite_columns)
    if settings.suite_columns:
        raise InputError(
            "--phi3-suite-columns is set, but there is no suite; pass one with --phi3-suite, or "
            "remove --phi3-suite-columns"
        )
    return None


def _metrics(settings: GateSettings) -> tuple[RequestedMetric, ...]:
    """Return the requested metrics; none of them may come from an adapter's folder."""
    metrics = tuple(find_metric(text, settings.starts["metric"]) for text in settings.metric)
    for metric in metrics:
        if file := metric.file:
            reject_if_inside(settings.adapter, file, "metrics")
    if len({metric.name for metric in metrics}) < len(set(metrics)):
        raise InputError("two metrics have the same name; rename one of them")
    return metrics


def snapshot(jobs: Sequence[AdapterJob], run_folder: Path) -> None:
    """Copy every adapter to the private folder, so that the linted files are the loaded ones."""
    for index, job in enumerate(jobs):
        job.listing.snapshot(snapshot_of(run_folder, index))


def hand_over(jobs: Sequence[AdapterJob], run_folder: Path) -> None:
    """Write the jobs for the run's other processes; no other user can write to the folder."""
    (run_folder / _HANDED).write_bytes(pickle.dumps(tuple(jobs)))


def handed_over(run_folder: Path) -> tuple[AdapterJob, ...]:
    """Return the jobs from the process that started the run.

    Suites and adapters may change on disk during the run, but all processes must use the same ones.
    """
    jobs: tuple[AdapterJob, ...] = pickle.loads((run_folder / _HANDED).read_bytes())
    return jobs


def snapshot_of(run_folder: Path, index: int) -> Path:
    """Return the folder of the private copy of an adapter."""
    return run_folder / "adapters" / str(index)


def adapter_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a name for each adapter folder: its own, with a number if that is taken."""
    names: list[str] = []
    for path in paths:
        own = escape(real(path).name, 80) or "adapter"
        candidates = (own if number == 1 else f"{own}~{number}" for number in itertools.count(1))
        names.append(next(name for name in candidates if name not in names))
    return tuple(names)


def _require_accepted(base: BaseRef, settings: GateSettings) -> None:
    read_base_config(base)
    if not settings.any_base:
        require_phi(base, "--phi3-any-base")


def _base_of(folder: AdapterFolder, settings: GateSettings) -> tuple[BaseRef | None, str]:
    """Return the configured base; otherwise the adapter's, if it is known or allowed."""
    if settings.base is not None:
        base = resolve_base(settings.base, settings.starts["base"])
        _require_accepted(base, settings)
        return base, ""
    try:
        named = read_config(folder).base_model_name_or_path
    except AdapterError:
        named = None  # the static stage reports what is wrong with the config
    trusted = {b.name for b in known_bases()} | {b.id for b in known_bases()}
    if named and named in trusted | set(settings.allow_bases):
        try:
            base = resolve_base(named)
            _require_accepted(base, settings)
        except BaseModelError as error:
            return None, str(error)
        else:
            return base, ""
    return None, (
        "there is no trusted base for this adapter: its config names "
        + (f"{named!r}, which is not a trusted base" if named else "none")
        + "; set one with --phi3-base DIR_OR_ID"
    )
