"""The training config: a TOML file with a table for each library's settings, read strictly."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.strict_values import require_known, require_type
from phi3_lora_qa.toml_file import read_toml

Table = TypeVar("Table")
_ENGINES = ("peft", "loralib")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class ModelTable:
    """The base model and how it is loaded.

    ``dtype`` "auto" is bfloat16 on an accelerator that supports it, else float32.
    """

    base: str
    dtype: str = "auto"
    attn_implementation: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """The conversations; without a ``validation`` file, ``seed`` draws the validation rows."""

    train: Path
    validation: Path | None = None
    validation_fraction: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class HubTable:
    """The hub repository for the finished adapter; an empty ``repo_id`` pushes nothing."""

    repo_id: str = ""
    private: bool = True
    endpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineTable:
    """The library whose layers TRL's SFTTrainer trains: "peft" or "loralib".

    ``masks`` is for loralib: the blocks of a fused layer to train, such as
    ``{"qkv_proj": {"q": True, "k": False, "v": True}}``; a layer without a mask trains all blocks.
    """

    name: str = "peft"
    masks: dict[str, dict[str, bool] | list[bool]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OutputTable:
    """The adapter folder; with ``overwrite`` an adapter there is replaced, but nothing else."""

    dir: Path
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of one training run.

    ``training``, ``peft`` and ``quantization`` have the libraries' own names, which
    ``library_arguments`` checks against the libraries. Everything else is checked here.
    """

    model: ModelTable
    data: DataTable
    output: OutputTable
    training: Mapping[str, Any] = field(default_factory=dict)
    peft: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    hub: HubTable = field(default_factory=HubTable)
    engine: EngineTable = field(default_factory=EngineTable)

    def __post_init__(self) -> None:
        if self.model.dtype not in _DTYPES:
            raise InputError(
                f"model.dtype is '{escape(self.model.dtype, 40)}'; use one of {', '.join(_DTYPES)}"
            )
        if not 0 < self.data.validation_fraction < 1:
            raise InputError(
                f"data.validation_fraction is {self.data.validation_fraction}; "
                "set a share between 0 and 1, or name a data.validation file"
            )
        if self.engine.name not in _ENGINES:
            raise InputError(
                f"engine.name is '{escape(self.engine.name, 40)}'; use one of {', '.join(_ENGINES)}"
            )
        if self.engine.masks and self.engine.name != "loralib":
            raise InputError(
                'engine.masks is for loralib\'s MergedLinear; remove it, or use name = "loralib"'
            )


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    r"""Read a training config and apply ``table.key=value`` overrides to it.

    Paths in the file are relative to the file; paths in an override to the working directory.

    Args:
        path: The TOML file.
        overrides: Applied in order.

    Returns:
        The checked config.

    Raises:
        InputError: The file cannot be read, or a table, key or value is unknown or invalid.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from phi3_lora_qa.training import load_config
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "train.toml")
        ...     _ = path.write_text("[model]\nbase = 'tiny'\n[data]\ntrain = 'rows.jsonl'\n")
        ...     load_config(path, ["output.dir=adapter", "peft.r=4"]).peft
        {'r': 4}
    """
    raw = read_toml(path, "the training config")
    _resolve_paths(raw, path.parent)
    for override in overrides:
        change = parse_override(override)
        _resolve_paths(change, Path())
        raw = _merge(raw, change, override)
    return config_from_tables(raw, str(path))


def config_from_tables(raw: Mapping[str, Any], where: str) -> TrainConfig:
    """Return the config for plain tables.

    Raises:
        InputError: A table, key or value is unknown or invalid; the message begins with ``where``.
    """
    require_known(raw, [f.name for f in fields(TrainConfig)], where)
    for name, table in raw.items():
        if not isinstance(table, Mapping):
            raise InputError(f"{where}: '{name}' is a value; make it a table: [{name}]")
    library = {name: dict(raw.get(name, {})) for name in ("training", "peft", "quantization")}
    output = _output(dict(raw.get("output", {})), library["training"], where)
    return TrainConfig(
        model=_table(ModelTable, raw.get("model", {}), f"{where} [model]"),
        data=_table(DataTable, raw.get("data", {}), f"{where} [data]"),
        output=_table(OutputTable, output, f"{where} [output]"),
        hub=_table(HubTable, raw.get("hub", {}), f"{where} [hub]"),
        engine=_table(EngineTable, raw.get("engine", {}), f"{where} [engine]"),
        **library,
    )


def parse_override(text: str) -> dict[str, Any]:
    """Parse ``table.key=value``; the value is TOML, or a string if it is a bare word.

    Raises:
        InputError: There is no ``=``, the key has no table, or the value is invalid TOML.
    """
    key, sign, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not sign or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", key):
        raise InputError(f"--set '{escape(text, 80)}' is invalid; write it as table.key=value")
    for candidate in (value, f"'{value}'"):
        try:
            parsed = tomllib.loads(f"value = {candidate}")
        except (ValueError, RecursionError):
            if value[:1] in ("'", '"', "[", "{", ""):
                break
            continue
        if set(parsed) == {"value"}:
            result: Any = parsed["value"]
            for part in reversed(key.split(".")):
                result = {part: result}
            return dict(result)
    raise InputError(f"--set '{escape(text, 80)}': the value is not valid TOML; fix its quotes")


def _table(kind: type[Table], raw: Mapping[str, Any], where: str) -> Table:
    hints = get_type_hints(kind)
    require_known(raw, hints, where)
    for name, value in raw.items():
        require_type(value, hints[name], name, where)
    try:
        return kind(**raw)
    except TypeError as error:
        raise InputError(f"{where}: {_missing(kind, raw)} is missing; set it there") from error


def _missing(kind: Any, raw: Mapping[str, Any]) -> str:
    """Return the required keys that a table lacks."""
    no_default = (MISSING, MISSING)
    required = [f.name for f in fields(kind) if (f.default, f.default_factory) == no_default]
    return ", ".join(name for name in required if name not in raw)


def _output(output: dict[str, Any], training: dict[str, Any], where: str) -> dict[str, Any]:
    """Move the cookbook's own names for the output folder into the [output] table."""
    for old, new in (("output_dir", "dir"), ("overwrite_output_dir", "overwrite")):
        if old in training:
            if new in output:
                raise InputError(
                    f"{where}: both output.{new} and training.{old} are set; keep output.{new}"
                )
            value = training.pop(old)
            output[new] = Path(value) if isinstance(value, str) else value
    return output


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    """Make path strings relative to ``folder``; values of other types are rejected later."""
    for table, key in (
        ("data", "train"),
        ("data", "validation"),
        ("output", "dir"),
        ("training", "output_dir"),
    ):
        values = raw.get(table)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            # pathlib's expanduser raises an error for unknown users
            values[key] = folder / os.path.expanduser(values[key])  # noqa: PTH111
    model = raw.get("model")
    # A base may be a name or a folder; only an explicitly relative path is resolved.
    if isinstance(model, dict) and str(model.get("base", "")).startswith(("./", "../")):
        model["base"] = str(folder / model["base"])


def _merge(old_raw: Mapping[str, Any], change: Mapping[str, Any], text: str) -> dict[str, Any]:
    merged = dict(old_raw)
    for key, value in change.items():
        old = merged.get(key)
        if not isinstance(value, dict) or key not in merged:
            merged[key] = value
        elif isinstance(old, Mapping):
            merged[key] = _merge(old, value, text)
        else:
            raise InputError(f"--set '{escape(text, 80)}': '{key}' is not a table; set its value")
    return merged
