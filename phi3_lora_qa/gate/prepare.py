"""What a run is about, found out before anything runs and without torch.

Bad input ends here, with one line: a path that is no adapter, a base that is no Phi-3, a suite
that cannot be read. What remains is the same in every process of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.adapter.config import read_config
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.data.chat import Item
from phi3_lora_qa.data.suite import read_suite
from phi3_lora_qa.data.thresholds import Limit, default_limits, expand, read_thresholds
from phi3_lora_qa.errors import AdapterError, BaseModelError, escape
from phi3_lora_qa.models.registry import (
    BaseRef,
    bundled_suite,
    known_bases,
    read_base_config,
    resolve_base,
)
from phi3_lora_qa.settings import GateSettings


@dataclass(frozen=True, kw_only=True)
class Target:
    """One adapter to gate, with the base and the items it is held against.

    Attributes:
        name: Its name in test ids and reports.
        source: The folder that the user gave; only the static stage looks at it.
        base: The trusted base; None where none is known.
        base_missing: Why there is none, with the mend; empty otherwise.
        items: The quality items.
        limits: The thresholds, one for each group and metric.
    """

    name: str
    source: Path
    base: BaseRef | None
    base_missing: str
    items: tuple[Item, ...]
    limits: tuple[Limit, ...]


def prepare(settings: GateSettings) -> tuple[Target, ...]:
    """Turn settings into targets.

    Raises:
        InputError: A path, base, suite or thresholds file cannot be used.
    """
    asked = read_thresholds(settings.thresholds) if settings.thresholds else None
    given = read_suite([Path(path) for path in settings.suite]) if settings.suite else None
    targets = []
    for name, source in zip(adapter_names(settings.adapter), settings.adapter, strict=True):
        base, missing = _base_of(source, settings)
        if given is not None:
            items: tuple[Item, ...] = given
        else:
            items = read_suite([bundled_suite(base)]) if base else ()
        groups = sorted({item.group for item in items})
        targets.append(
            Target(
                name=name,
                source=source,
                base=base,
                base_missing=missing,
                items=items,
                limits=expand(default_limits(groups) if asked is None else asked, groups),
            )
        )
    return tuple(targets)


def snapshot(targets: Sequence[Target], run_folder: Path) -> None:
    """Copy every adapter to a private place: what is linted is what will be loaded."""
    for index, target in enumerate(targets):
        AdapterFolder.open(target.source).snapshot(snapshot_of(run_folder, index))


def snapshot_of(run_folder: Path, index: int) -> Path:
    """Where the private copy of an adapter lies."""
    return run_folder / "adapters" / str(index)


def adapter_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a name for each adapter folder: its own name, with a number where two are alike."""
    names: list[str] = []
    for path in paths:
        name = escape(path.resolve().name, 80) or "adapter"
        alike = sum(1 for other in names if other == name or other.startswith(f"{name}~"))
        names.append(f"{name}~{alike + 1}" if alike else name)
    return tuple(names)


def _base_of(source: Path, settings: GateSettings) -> tuple[BaseRef | None, str]:
    """The configured base; else the adapter's own, only when it is known or allowed by name."""
    folder = AdapterFolder.open(source)
    if settings.base is not None:
        base = resolve_base(settings.base)
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
