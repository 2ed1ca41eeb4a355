"""The gate's settings, each remembering where its value came from.

Precedence: option > environment > file > default. A file is pytest's own configuration (keys
``phi3_*``), then ``phi3-lora-qa.toml``, then the table ``[tool.phi3_lora_qa]`` in pyproject.toml.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.reading import read_text
from phi3_lora_qa.setting_specs import SPECS, SettingSpec, option

ENVIRONMENT_PREFIX = "PHI3_LORA_QA_"
SETTINGS_FILE = "phi3-lora-qa.toml"
LARGEST_SEED = 2**32 - 1
REPORTING = ("adapter", "report", "baseline")
"""What decides where a report goes, and where it must not go."""
DRAWN = "drawn for this run"
"""The source of an order that nobody gave."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Every setting of one gate run.

    ``sources`` says per name where the value came from, and ``starts`` where a relative path of
    its would start: a base may be a path, but a known name goes first.
    """

    adapter: tuple[Path, ...]
    base: str | None
    suite: tuple[str, ...]
    suite_columns: tuple[str, ...]
    metric: tuple[str, ...]
    thresholds: Path | None
    profile: str
    baseline: Path | None
    report: Path | None
    layers: bool
    only: bool
    stage: tuple[str, ...]
    seed: int
    order: int
    backend: str
    engine: str
    dtype: str
    cache_scores: str
    early_stop: str
    allow_inconclusive: bool
    lint_select: tuple[str, ...]
    lint_ignore: tuple[str, ...]
    lint_levels: tuple[str, ...]
    allow_bases: tuple[str, ...]
    sources: Mapping[str, str]
    starts: Mapping[str, Path]


def resolve(  # noqa: PLR0913  each place that a setting may stand in
    options: Mapping[str, object],
    environment: Mapping[str, str],
    ini: Mapping[str, object],
    directory: Path,
    ini_directory: Path | None,
    *,
    forgiving: bool = False,
) -> GateSettings:
    """Find each setting's value and its source.

    Args:
        options: Values given on the command line, by setting name; None where not given.
        environment: The process's environment.
        ini: Values of pytest's own configuration, by setting name; None where not given.
        directory: Where relative paths of options and of the environment start.
        ini_directory: The folder of pytest's configuration, where its relative paths start and
            where the settings file and pyproject.toml are looked for; None to read no file.
        forgiving: Leave out what is wrong, and its source, if where the report goes is known all
            the same: what was a report there must not stand for a run that is refused.

    Raises:
        InputError: A value has the wrong type, is empty or none of the choices, a file is broken,
            the settings lie in the folder of an adapter that they are for, or nothing would run.
    """
    table: Mapping[str, object] = {}
    table_source = ""
    if ini_directory:
        table, table_source = _read_table(ini_directory, forgiving=forgiving)
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    starts: dict[str, Path] = {}
    for spec in SPECS:
        variable = ENVIRONMENT_PREFIX + spec.name.upper()
        candidates: list[tuple[object, str, Path]] = [
            (_number(spec, options.get(spec.name)), option(spec), directory),
            (_from_variable(spec, environment.get(variable)), variable, directory),
            (
                _number(spec, ini.get(spec.name)),
                f"pytest configuration, phi3_{spec.name}",
                ini_directory or directory,
            ),
            (table.get(spec.name), table_source, ini_directory or directory),
        ]
        given = next((c for c in candidates if c[0] is not None), None)
        if given is None:
            given = (spec.default, "default", directory)
            values[spec.name] = spec.default
        else:
            try:
                values[spec.name] = _checked(spec, *given)
            except InputError:
                if not forgiving or spec.name in REPORTING:
                    raise
                values[spec.name] = spec.default
                continue
        sources[spec.name], starts[spec.name] = given[1:]
    found = GateSettings(**values, sources=sources, starts=starts)  # type: ignore[arg-type]
    if ini_directory and (table or any(value is not None for value in ini.values())):
        if forgiving and is_inside(found.adapter, ini_directory):
            return resolve(options, environment, {}, directory, None, forgiving=True)
        reject_if_inside(found.adapter, ini_directory, "settings")
    if not forgiving:
        _require_something(found)
    return found


def with_order(settings: GateSettings) -> GateSettings:
    """Return the settings with an order that nobody could know before the run.

    The process that starts a run draws it once, for all; one that was given stays.
    """
    if settings.sources["order"] != "default":
        return settings
    import secrets  # which loads OpenSSL

    sources = {**settings.sources, "order": DRAWN}
    return replace(settings, order=secrets.randbelow(LARGEST_SEED + 1), sources=sources)


def _require_something(settings: GateSettings) -> None:
    """An adapter whose variable is not set must not pass for one that was gated.

    A file says how to gate, and not that something is gated: there ``only`` may stand for good.
    """
    asked = settings.sources["only"].startswith(("--", ENVIRONMENT_PREFIX))
    if settings.only and asked and not settings.adapter and not settings.layers:
        raise InputError(
            f"{settings.sources['only']} leaves your own tests out, and no adapter is given: "
            "nothing would run; give one with --phi3-adapter=PATH"
        )


def reject_if_inside(
    adapters: Sequence[Path],
    place: Path,
    what: str,
    fix: str = "run from the folder of your own project",
) -> None:
    """Refuse what would be read from an adapter's own folder: it may not say how it is judged.

    Args:
        adapters: The folders of the adapters.
        place: The folder, or file, that something would be read from.
        what: What would be read, in the plural.
        fix: What the user can do about it.

    Raises:
        InputError: The place is the folder of an adapter, or lies in it.
    """
    if is_inside(adapters, place):
        raise InputError(
            f"the {what} in {escape(str(place))} lie in the adapter's own folder, and an adapter "
            f"may not say how it is judged; {fix}"
        )


_MOST_OF_TABLE = 4 << 20


def is_inside(folders: Sequence[Path], place: Path) -> bool:
    """Whether a place is one of the folders, or lies in one, whatever leads there.

    Links do, and so do other spellings of a name where the file system takes them for the same, and
    folders that are mounted twice. So it is also asked which folder it is, and not only its name.
    """
    found = real(place)
    around = (found, *found.parents)
    if any(real(folder) in around for folder in folders):
        return True
    known = {identity for identity in map(_identity, folders) if identity}
    return bool(known) and not known.isdisjoint(map(_identity, around))


def real(path: Path) -> Path:
    """Return a path without links; one that no system knows, as it is."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a NUL
        return path


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  asked for each module that is imported
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None


def _read_table(directory: Path, *, forgiving: bool) -> tuple[Mapping[str, object], str]:
    own, shared = directory / SETTINGS_FILE, directory / "pyproject.toml"
    for path, keys in ((own, ()), (shared, ("tool", "phi3_lora_qa"))):
        if not path.exists() or path.is_dir():
            continue
        text = ""
        try:
            text = read_text(path, _MOST_OF_TABLE)
            if path == shared and "phi3_lora_qa" not in text:
                continue  # nothing of ours, so nothing to parse: every pytest run passes here
            import tomllib

            table: object = tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            if forgiving and text and not any(name in text for name in REPORTING):
                return {}, ""
            raise InputError(f"cannot read {path}: {error}; mend the TOML") from error
        for key in keys:
            table = table.get(key, {}) if isinstance(table, dict) else {}
        if not isinstance(table, dict):
            raise InputError(f"[tool.phi3_lora_qa] in {path} must be a table; write key = value")
        if table:
            known = {spec.name for spec in SPECS}
            if (unknown := sorted(set(table) - known)) and not forgiving:
                raise InputError(
                    f"{path} has the unknown setting {escape(unknown[0], 60)}; "
                    f"known are {', '.join(sorted(known))}"
                )
            return table, str(path)
    return {}, ""


def _number(spec: SettingSpec, value: object) -> object:
    """A number comes as text from pytest's configuration, and from the command line.

    argparse would refuse it there with a usage page.
    """
    return _from_text(spec, value) if spec.kind == "number" and isinstance(value, str) else value


def _from_variable(spec: SettingSpec, text: str | None) -> object:
    """Read a variable. One that is empty counts as not given, but for the adapter's.

    There it is one that expanded to nothing, and the run would judge nothing, or one less.
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


def _checked(spec: SettingSpec, value: object, source: str, start: Path) -> object:
    def refuse(wanted: str) -> InputError:
        shown = re.sub(r"//.*@", "//…@", repr(value))  # a password is not to be told
        return InputError(
            f"{source}: {escape(shown, 80)} is no value for {spec.name}; give {wanted}"
        )

    wanted: dict[str, tuple[type, str]] = {
        "flag": (bool, "true or false"),
        "number": (int, f"a whole number from 0 to {LARGEST_SEED}"),
    }
    if spec.kind in wanted:
        kind, words = wanted[spec.kind]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise refuse(words)
        if isinstance(value, int) and not 0 <= value <= LARGEST_SEED:
            raise refuse(words)
        return value
    parts = value if spec.repeated else [value]
    if isinstance(parts, str) or not isinstance(parts, Sequence):
        raise refuse("a list")
    if spec.name == "adapter" and not (parts and all(str(part).strip() for part in parts)):
        raise InputError(
            f"{source}: the adapter is empty, and nothing would be gated; give the path of its "
            "folder, or leave it out"
        )
    if not all(isinstance(part, str | Path) and str(part) for part in parts):
        raise refuse("text")
    if spec.choices and (bad := [part for part in parts if part not in spec.choices]):
        value = bad[0]
        raise refuse(f"one of {', '.join(spec.choices)}")
    if spec.accepts and (bad := [part for part in parts if not spec.accepts(str(part))]):
        value = bad[0]
        raise refuse(spec.forms)
    read = _READERS.get(spec.name, str)
    found = tuple(read(_placed(spec, str(part), start)) for part in parts)
    return found if spec.repeated else found[0]


def _placed(spec: SettingSpec, text: str, start: Path) -> str:
    """Make a relative path absolute; a suite that is no file here may be a data set's id."""
    if spec.kind != "path":
        return text
    path = Path(os.path.expanduser(text))  # noqa: PTH111  pathlib's raises for unknown users
    placed = path if path.is_absolute() else start / path
    return text if spec.name == "suite" and not os.path.exists(placed) else str(placed)  # noqa: PTH110


_READERS: Mapping[str, Callable[[str], object]] = {
    "adapter": Path,
    "thresholds": Path,
    "baseline": Path,
    "report": Path,
}
