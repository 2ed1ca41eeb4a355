"""The gate's settings, each with the source of its value.

Precedence: option > environment > file > default. Files are pytest's own configuration (keys
``phi3_*``), then ``phi3-lora-qa.toml``, then the table ``[tool.phi3_lora_qa]`` in pyproject.toml.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape, reason_of
from phi3_lora_qa.reading import read_text
from phi3_lora_qa.setting_specs import SPECS, SettingSpec, Source, SourceKind, option
from phi3_lora_qa.strict_values import describe_type, fits, suggest

ENVIRONMENT_PREFIX = "PHI3_LORA_QA_"
SETTINGS_FILE = "phi3-lora-qa.toml"
LARGEST_SEED = 2**32 - 1
MOST_BYTES = 4 << 20
"""Largest size of a settings file."""
REPORTING = ("adapter", "report", "baseline")
"""The settings that decide where a report is written and where it must not be."""
DEFAULT = Source(kind=SourceKind.DEFAULT, place="default")
DRAWN = Source(kind=SourceKind.DRAWN, place="drawn for this run")
"""The source of a random order."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """All settings of one gate run.

    ``sources`` has the source of each value, and ``starts`` the folder that its relative paths
    start in, for settings such as ``base`` whose value may be a path or a name.
    """

    adapter: tuple[Path, ...]
    base: str | None
    suite: tuple[str, ...]
    suite_columns: tuple[str, ...]
    metric: tuple[str, ...]
    thresholds: Path | None
    profile: str
    baseline: Path | None
    parent: Path | None
    report: Path | None
    layers: bool
    only: bool
    stage: tuple[str, ...]
    seed: int
    order: int
    backend: str
    engine: str
    dtype: str
    device: str
    quantization: str
    cache_scores: str
    early_stop: str
    allow_inconclusive: bool
    lint_select: tuple[str, ...]
    lint_ignore: tuple[str, ...]
    lint_levels: tuple[str, ...]
    allow_bases: tuple[str, ...]
    any_base: bool
    sources: Mapping[str, Source]
    starts: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class _Sources:
    """The places that a setting can be set in, by setting name, and where relative paths start."""

    options: Mapping[str, object]
    environment: Mapping[str, str]
    ini: Mapping[str, object]
    table: Mapping[str, object]
    table_name: str
    directory: Path
    ini_directory: Path

    def find(self, spec: SettingSpec) -> tuple[object, Source, Path] | None:
        """Return the value with the highest precedence, its source, and where its paths start."""
        name, variable = spec.name, ENVIRONMENT_PREFIX + spec.name.upper()
        from_variable = _from_variable(spec, self.environment.get(variable))
        from_ini = _number(spec, self.ini.get(name))
        candidates: list[tuple[object, Source, Path]] = [
            (
                _number(spec, self.options.get(name)),
                Source(kind=SourceKind.OPTION, place=option(spec)),
                self.directory,
            ),
            (
                from_variable,
                Source(kind=SourceKind.ENVIRONMENT, place=variable),
                self.directory,
            ),
            (
                from_ini,
                Source(kind=SourceKind.FILE, place=f"pytest configuration, phi3_{name}"),
                self.ini_directory,
            ),
            (
                self.table.get(name),
                Source(kind=SourceKind.FILE, place=self.table_name),
                self.ini_directory,
            ),
        ]
        return next((found for found in candidates if found[0] is not None), None)


def resolve(  # noqa: PLR0913  one argument for each place that a setting can be set in
    options: Mapping[str, object],
    environment: Mapping[str, str],
    ini: Mapping[str, object],
    directory: Path,
    ini_directory: Path | None,
    *,
    forgiving: bool = False,
) -> GateSettings:
    """Return all settings with their sources.

    Args:
        options: Values from the command line, by setting name; None if not set.
        environment: The process's environment.
        ini: Values from pytest's own configuration, by setting name; None if not set.
        directory: Where relative paths of options and of the environment start.
        ini_directory: The folder of pytest's configuration, where its relative paths start and
            where the settings file and pyproject.toml are looked for; None to read no file.
        forgiving: Ignore invalid settings and their sources, except those that decide where the
            report goes: the report of a refused run must replace an earlier report there.

    Raises:
        InputError: A value has the wrong type, is empty or is not one of the choices, a file is
            invalid, the settings file is in the folder of an adapter, or nothing would run.
    """
    table, table_name = ({}, "") if ini_directory is None else _read_table(ini_directory, forgiving)
    places = _Sources(
        options=options,
        environment=environment,
        ini=ini,
        table=table,
        table_name=table_name,
        directory=directory,
        ini_directory=ini_directory or directory,
    )
    values: dict[str, object] = {spec.name: spec.default for spec in SPECS}
    sources: dict[str, Source] = {}
    starts: dict[str, Path] = {}
    for spec in SPECS:
        if found := places.find(spec):
            try:
                values[spec.name] = _checked(spec, *found)
            except InputError:
                if not forgiving or spec.name in REPORTING:
                    raise
                continue
        _, sources[spec.name], starts[spec.name] = found or (None, DEFAULT, directory)
    settings = GateSettings(**values, sources=sources, starts=starts)  # type: ignore[arg-type]
    if settings.baseline and os.path.isdir(settings.baseline):  # noqa: PTH112  never raises
        # The folder of a report: its record is meant.
        settings = replace(settings, baseline=settings.baseline / "record.json")
    if ini_directory and (table or any(value is not None for value in ini.values())):
        if forgiving and is_inside(settings.adapter, ini_directory):
            return resolve(options, environment, {}, directory, None, forgiving=True)
        reject_if_inside(settings.adapter, ini_directory, "settings")
    if not forgiving:
        _require_something_to_run(settings)
    return settings


def with_order(settings: GateSettings) -> GateSettings:
    """Return the settings with a random order, which cannot be known before the run.

    The process that starts a run draws it once for all processes. An order that was set is kept.
    """
    if settings.sources["order"] != DEFAULT:
        return settings
    import secrets  # loads OpenSSL

    sources = {**settings.sources, "order": DRAWN}
    return replace(settings, order=secrets.randbelow(LARGEST_SEED + 1), sources=sources)


def _require_something_to_run(settings: GateSettings) -> None:
    """Raise if nothing would run, so that an unset variable does not look like a passed gate.

    ``only`` in a file does not request a run, and so is allowed without an adapter.
    """
    kind = settings.sources["only"].kind
    requested = kind in (SourceKind.OPTION, SourceKind.ENVIRONMENT)
    if settings.only and requested and not settings.adapter and not settings.layers:
        raise InputError(
            f"nothing would run: {settings.sources['only']} skips your own tests, and no adapter "
            "is given; pass one with --phi3-adapter=PATH"
        )


def reject_if_inside(
    adapters: Sequence[Path],
    place: Path,
    what: str,
    fix: str = "run from the folder of your own project",
) -> None:
    """Raise if something would be read from an adapter's own folder.

    An adapter must not configure its own gate.

    Args:
        adapters: The folders of the adapters.
        place: The folder or file that something would be read from.
        what: What would be read, in the plural.
        fix: What the user can do about it.

    Raises:
        InputError: The place is an adapter's folder, or is inside one.
    """
    if is_inside(adapters, place):
        raise InputError(
            f"the {what} in {escape(str(place))} are in the adapter's own folder, and an adapter "
            f"must not configure its own gate; {fix}"
        )


def reject_on_import_path(adapter: Path) -> None:
    """Raise if Python would import modules from an adapter's folder: they would run unchecked.

    Raises:
        InputError: An entry of ``sys.path``, or the current folder if that is one, is inside.
    """
    for entry in sys.path:
        reject_if_inside(
            [adapter],
            Path(entry or "."),
            "modules that Python would import",
            "start Python in another folder, or take this one off sys.path",
        )


def is_inside(folders: Sequence[Path], place: Path) -> bool:
    """Return whether a place is one of the folders or is inside one, by any path.

    A path may lead there through links, another spelling on a case-insensitive file system, or a
    second mount. So the identities of the folders are compared, not only their names.
    """
    found = real(place)
    around = (found, *found.parents)
    if any(real(folder) in around for folder in folders):
        return True
    known = {identity for identity in map(_identity, folders) if identity}
    return bool(known) and not known.isdisjoint(map(_identity, around))


def real(path: Path) -> Path:
    """Return a path without links; an invalid path is returned unchanged."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a NUL
        return path


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  called for each imported module, so it must be fast
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None


def _read_table(directory: Path, forgiving: bool) -> tuple[Mapping[str, object], str]:
    """Return the table of the first settings file that has one, and the file's path."""
    own, shared = directory / SETTINGS_FILE, directory / "pyproject.toml"
    for path, keys in ((own, ()), (shared, ("tool", "phi3_lora_qa"))):
        if not path.exists() or path.is_dir():
            continue
        text = ""
        try:
            text = read_text(path, MOST_BYTES)
            if path == shared and "phi3_lora_qa" not in text:
                continue  # it has no table of ours; not parsed, since every pytest run gets here
            import tomllib

            table: object = tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            if forgiving and text and not any(name in text for name in REPORTING):
                return {}, ""
            raise InputError(f"cannot read {path}: {reason_of(error)}; fix the TOML") from error
        for key in keys:
            table = table.get(key, {}) if isinstance(table, dict) else {}
        if not isinstance(table, dict):
            raise InputError(f"[tool.phi3_lora_qa] in {path} must be a table; write key = value")
        if table:
            known = {spec.name for spec in SPECS}
            if (unknown := sorted(set(table) - known)) and not forgiving:
                raise InputError(
                    f"{path} has the unknown setting {escape(unknown[0], 60)}; "
                    f"{suggest(unknown[0], sorted(known))}"
                )
            return table, str(path)
    return {}, ""


def _number(spec: SettingSpec, value: object) -> object:
    """Convert a number that is text in pytest's configuration or on the command line.

    On the command line argparse would reject it with a usage page.
    """
    return _from_text(spec, value) if spec.kind == "number" and isinstance(value, str) else value


def _from_variable(spec: SettingSpec, text: str | None) -> object:
    """Read an environment variable. An empty one counts as not set, except for the adapter.

    An empty adapter is a shell variable without a value, and the run would gate nothing.
    """
    if spec.name == "adapter" and text is not None:
        return [part.strip() for part in text.split(",")]
    return _from_text(spec, text)


def _from_text(spec: SettingSpec, text: str | None) -> object:
    if text is None or not text.strip():
        return None
    if spec.repeated:
        return [part.strip() for part in text.split(",") if part.strip()]
    if spec.kind == "flag":
        lowered = text.strip().lower()
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(
            lowered, text
        )
    if spec.kind == "number":
        try:
            return int(text)
        except ValueError:
            return text
    return text


_TYPES: Mapping[str, type] = {"flag": bool, "number": int}


def _checked(spec: SettingSpec, value: object, source: Source, start: Path) -> object:
    """Return the value in its final type; raise if it is not valid."""

    def invalid(part: object, expected: str) -> InputError:
        shown = re.sub(r"//.*@", "//…@", repr(part))  # hides a password
        return InputError(
            f"{source}: {escape(shown, 80)} is not a valid {spec.name}; use {expected}"
        )

    if kind := _TYPES.get(spec.kind):
        bounds = f" from 0 to {LARGEST_SEED}" if kind is int else ""
        if not fits(value, kind) or (isinstance(value, int) and not 0 <= value <= LARGEST_SEED):
            raise invalid(value, describe_type(kind) + bounds)
        return value
    parts = value if spec.repeated else [value]
    if isinstance(parts, str) or not isinstance(parts, Sequence):
        raise invalid(value, "a list")
    if spec.name == "adapter" and not (parts and all(str(part).strip() for part in parts)):
        raise InputError(
            f"{source}: the adapter's path is empty, so nothing would be gated; pass its folder, "
            "or remove the setting"
        )
    if not all(isinstance(part, str | Path) and str(part) for part in parts):
        raise invalid(value, "a string")
    for part in parts:
        if spec.choices and part not in spec.choices:
            raise invalid(part, f"one of {', '.join(spec.choices)}")
        if spec.validator and not spec.validator(str(part)):
            raise invalid(part, spec.description)
    read = _READERS.get(spec.name, str)
    found = tuple(read(_absolute(spec, str(part), start)) for part in parts)
    return found if spec.repeated else found[0]


def _absolute(spec: SettingSpec, text: str, start: Path) -> str:
    """Make a relative path absolute; a suite without such a file may be the id of a data set."""
    if spec.kind != "path":
        return text
    path = Path(os.path.expanduser(text))  # noqa: PTH111  pathlib's raises for unknown users
    full = path if path.is_absolute() else start / path
    return text if spec.name == "suite" and not os.path.exists(full) else str(full)  # noqa: PTH110


_READERS: Mapping[str, Callable[[str], object]] = {
    "adapter": Path,
    "thresholds": Path,
    "baseline": Path,
    "parent": Path,
    "report": Path,
}
