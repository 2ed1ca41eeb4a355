"""What a run is about, found out before anything runs and without torch.

Bad input ends here, with one line: a path that is no adapter, a base that is no Phi-3, a suite
that cannot be read. What remains is the same in every process of the run.
"""

import itertools
import pickle
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.adapter.config import read_config
from phi3_lora_qa.adapter.folder import AdapterFolder
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
    resolve_base,
)
from phi3_lora_qa.record import ItemRow
from phi3_lora_qa.settings import GateSettings, real, reject_if_inside

_HANDED = "targets.pickle"
ITEMS_FILE = "items.parquet"


@dataclass(frozen=True, kw_only=True)
class AdapterJob:
    """One adapter to gate, with the base and the items it is held against.

    Attributes:
        name: Its name in test ids and reports.
        source: The folder that the user gave.
        listing: What lay in it when the run began; the rules on files see what was not copied.
        base: The trusted base; None where none is known.
        base_missing: Why there is none, with the mend; empty otherwise.
        items: The quality items, each question once.
        copies: How many items were left out because they repeat another.
        limits: The thresholds, one for each group and metric.
        metrics: What is to be measured beside the usual metrics and those that limits name.
        baseline: The last accepted adapter's rows of the same items; empty without one.
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
    baseline: tuple[ItemRow, ...] = ()


def prepare(settings: GateSettings) -> tuple[AdapterJob, ...]:
    """Turn settings into targets.

    Raises:
        InputError: A path, base, suite or thresholds file cannot be used.
    """
    selection_of(settings)  # what is wrong with it is bad input too
    _require_judges_of_our_own(settings, None)
    metrics = _metrics(settings)
    known = tuple(dict.fromkeys((*known_metrics(), *(metric.name for metric in metrics))))
    shares, path = share_metrics(), settings.thresholds
    asked = read_thresholds(path, known, shares) if path else None
    given = _given_suite(settings)
    targets = []
    for name, source in zip(adapter_names(settings.adapter), settings.adapter, strict=True):
        listing = AdapterFolder.open(source)
        base, missing = _base_of(listing, settings)
        _require_judges_of_our_own(settings, base)
        if given is not None:
            items: tuple[Item, ...] = given
        else:
            items = read_suite([bundled_suite(base)]) if base else ()
        distinct = without_duplicates(items)
        limits, built_in = asked, settings.sources["profile"] == "default"
        if limits is None and given is None and base and built_in:
            limits = read_thresholds(bundled_thresholds(base), known, shares)
        groups = sorted({item.group for item in distinct})
        if limits is None:
            limits = default_limits(groups, settings.profile)
        if settings.baseline and not any(limit.against == BASELINE for limit in limits):
            limits += baseline_limits(settings.profile)
        targets.append(
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
                baseline=read_baseline(settings.baseline, distinct, base, settings)
                if settings.baseline and base
                else (),
            )
        )
    return tuple(targets)


def _require_judges_of_our_own(settings: GateSettings, base: BaseRef | None) -> None:
    """Whatever an adapter is held against lies outside of every adapter's folder."""
    baseline = settings.baseline
    places: dict[str, Sequence[Path | None]] = {
        "items of the suite": [Path(path) for path in settings.suite],
        "limits": [settings.thresholds],
        # The items are looked for beside the record, not beside what a link to it leads to.
        "figures of the baseline": [baseline, baseline and baseline.with_name(ITEMS_FILE)],
        "kept scores of the base": [cache_folder()],
        "files of the base": [base.folder if base else None],
    }
    for what, paths in places.items():
        for path in filter(None, paths):
            for place in (path, *_files_in(path)):
                reject_if_inside(settings.adapter, place, what, "give others, from outside of it")


def _files_in(path: Path) -> Iterator[Path]:
    """The files right in a folder may be links that lead elsewhere, as in a hub's cache."""
    with suppress(OSError, ValueError):
        yield from (entry for entry in path.iterdir() if not entry.is_dir())


def _given_suite(settings: GateSettings) -> tuple[Item, ...] | None:
    if settings.suite:
        return read_suite([Path(path) for path in settings.suite], settings.suite_columns)
    if settings.suite_columns:
        raise InputError(
            "columns were named, but no suite; give it with --phi3-suite, or leave out "
            "--phi3-suite-columns"
        )
    return None


def _metrics(settings: GateSettings) -> tuple[RequestedMetric, ...]:
    """Find the metrics that were asked for; none of them may come from an adapter's folder."""
    metrics = tuple(find_metric(text, settings.starts["metric"]) for text in settings.metric)
    for metric in metrics:
        if file := metric.file:
            reject_if_inside(settings.adapter, file, "metrics")
    if len({metric.name for metric in metrics}) < len(set(metrics)):
        raise InputError("two metrics bear the same name; give one of them another")
    return metrics


def snapshot(targets: Sequence[AdapterJob], run_folder: Path) -> None:
    """Copy every adapter to a private place: what is linted is what will be loaded."""
    for index, target in enumerate(targets):
        target.listing.snapshot(snapshot_of(run_folder, index))


def hand_over(targets: Sequence[AdapterJob], run_folder: Path) -> None:
    """Write the targets down for the run's other processes; nobody else can write there."""
    (run_folder / _HANDED).write_bytes(pickle.dumps(tuple(targets)))


def handed_over(run_folder: Path) -> tuple[AdapterJob, ...]:
    """Return what the process that started the run wrote down.

    Suites and adapters may change on disk meanwhile: all processes must see the same ones.
    """
    targets: tuple[AdapterJob, ...] = pickle.loads((run_folder / _HANDED).read_bytes())
    return targets


def snapshot_of(run_folder: Path, index: int) -> Path:
    """Where the private copy of an adapter lies."""
    return run_folder / "adapters" / str(index)


def adapter_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a name for each adapter folder: its own name, with a number where it is taken."""
    names: list[str] = []
    for path in paths:
        own = escape(real(path).name, 80) or "adapter"
        tried = (own if number == 1 else f"{own}~{number}" for number in itertools.count(1))
        names.append(next(name for name in tried if name not in names))
    return tuple(names)


def _base_of(folder: AdapterFolder, settings: GateSettings) -> tuple[BaseRef | None, str]:
    """The configured base; else the adapter's own, only when it is known or allowed by name."""
    if settings.base is not None:
        base = resolve_base(settings.base, settings.starts["base"])
        read_base_config(base)
        return base, ""
    try:
        named = read_config(folder).base_model_name_or_path
    except AdapterError:
        named = None  # the static stage says what is wrong with the config
    trusted = {b.name for b in known_bases()} | {b.id for b in known_bases()}
    if named and named in trusted | set(settings.allow_bases):
        try:
            base = resolve_base(named)
            read_base_config(base)
        except BaseModelError as error:
            return None, str(error)
        else:
            return base, ""
    return None, (
        "no base is known for this adapter: it names "
        + (f"{named!r}, which is on no list of trusted bases" if named else "none")
        + "; give one with --phi3-base DIR_OR_ID"
    )
