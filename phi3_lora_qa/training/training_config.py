"""The training config: a TOML file with the source's two dictionaries as tables, read strictly."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.reading import read_text
from phi3_lora_qa.training.strict_values import require_known, require_type

Table = TypeVar("Table")
_ENGINES = ("peft", "loralib")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class ModelTable:
    """Which base is tuned, and how it is loaded.

    ``dtype`` "auto" is float32 without an accelerator and bfloat16 with one.
    """

    base: str
    dtype: str = "auto"
    attn_implementation: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """Where the conversations are; ``seed`` draws the validation rows where no file names them."""

    train: Path
    validation: Path | None = None
    validation_fraction: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class HubTable:
    """Where the finished adapter is pushed; nothing is pushed while ``repo_id`` is empty."""

    repo_id: str = ""
    private: bool = True
    endpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineTable:
    """Whose layers TRL's SFTTrainer trains: "peft" or "loralib".

    ``masks`` is loralib's: which blocks of a fused layer are trained, such as
    ``{"qkv_proj": {"q": True, "k": False, "v": True}}``; all where it is not named.
    """

    name: str = "peft"
    masks: dict[str, dict[str, bool] | list[bool]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OutputTable:
    """Where the adapter folder is written; only an adapter folder is ever overwritten."""

    dir: Path
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything one training run is told.

    ``training``, ``peft`` and ``quantization`` carry the libraries' own names and are checked
    against the libraries by ``arguments``; all else is checked here.
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
                "give a share between 0 and 1, or name a data.validation file"
            )
        if self.engine.name not in _ENGINES:
            raise InputError(
                f"engine.name is '{escape(self.engine.name, 40)}', which cannot train; "
                f"use one of {', '.join(_ENGINES)}"
            )
        if self.engine.masks and self.engine.name != "loralib":
            raise InputError(
                'engine.masks is for loralib\'s MergedLinear; drop it, or use name = "loralib"'
            )


_MOST_BYTES = 4 << 20


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training config and lay ``table.key=value`` overrides over it.

    Paths in the file are relative to the file; paths in an override to the working directory.

    Raises:
        InputError: The file cannot be read, or a table, key or value is not one that is known.
    """
    try:
        raw = tomllib.loads(read_text(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read the training config {path}: {error}; give a TOML file"
        ) from error
    _resolve_paths(raw, path.parent)
    for override in overrides:
        change = parse_override(override)
        _resolve_paths(change, Path())
        raw = _merge(raw, change, override)
    return config_from_tables(raw, str(path))


def config_from_tables(raw: Mapping[str, Any], where: str) -> TrainConfig:
    """Build the config from plain tables.

    Raises:
        InputError: With ``where``, the key, and the nearest known name.
    """
    require_known(raw, [f.name for f in fields(TrainConfig)], where)
    for name, table in raw.items():
        if not isinstance(table, Mapping):
            raise InputError(f"{where}: '{name}' is a value; make it a table: [{name}]")
    free = {name: dict(raw.get(name, {})) for name in ("training", "peft", "quantization")}
    output = _output(dict(raw.get("output", {})), free["training"], where)
    return TrainConfig(
        model=_table(ModelTable, raw.get("model", {}), f"{where} [model]"),
        data=_table(DataTable, raw.get("data", {}), f"{where} [data]"),
        output=_table(OutputTable, output, f"{where} [output]"),
        hub=_table(HubTable, raw.get("hub", {}), f"{where} [hub]"),
        engine=_table(EngineTable, raw.get("engine", {}), f"{where} [engine]"),
        **free,
    )


def parse_override(text: str) -> dict[str, Any]:
    """Parse ``table.key=value``: the value is TOML, and a bare word that is no TOML a string.

    Raises:
        InputError: There is no ``=``, the key has no table, or the value is broken TOML.
    """
    key, sign, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not sign or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", key):
        raise InputError(f"--set '{escape(text, 80)}' is no table.key=value; give all three")
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
    raise InputError(f"--set '{escape(text, 80)}': the value is no TOML; mend its quotes")


def _table(kind: type[Table], raw: Mapping[str, Any], where: str) -> Table:
    hints = get_type_hints(kind)
    require_known(raw, hints, where)
    for name, value in raw.items():
        require_type(value, hints[name], name, where)
    try:
        return kind(**raw)
    except TypeError as error:
        # Types and names were checked: what is left is a required key that is absent.
        missing = re.findall(r"'(\w+)'", str(error))
        raise InputError(
            f"{where}: {', '.join(missing)} is missing; give it there, or with --set"
        ) from error


def _output(output: dict[str, Any], training: dict[str, Any], where: str) -> dict[str, Any]:
    """Take the source's own names for where the output goes into the [output] table."""
    for old, new in (("output_dir", "dir"), ("overwrite_output_dir", "overwrite")):
        if old in training:
            if new in output:
                raise InputError(
                    f"{where}: both output.{new} and training.{old} are given; keep output.{new}"
                )
            value = training.pop(old)
            output[new] = Path(value) if isinstance(value, str) else value
    return output


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    """Turn the strings that are paths into paths below ``folder``; other types are left to fail."""
    for table, key in (
        ("data", "train"),
        ("data", "validation"),
        ("output", "dir"),
        ("training", "output_dir"),
    ):
        values = raw.get(table)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            # pathlib's raises for unknown users
            values[key] = folder / os.path.expanduser(values[key])  # noqa: PTH111
    model = raw.get("model")
    # A base may be a name or a folder; only what is plainly a relative path is taken for one.
    if isinstance(model, dict) and str(model.get("base", "")).startswith(("./", "../")):
        model["base"] = str(folder / model["base"])


def _merge(below: Mapping[str, Any], above: Mapping[str, Any], text: str) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if not isinstance(value, dict) or key not in merged:
            merged[key] = value
        elif isinstance(old, Mapping):
            merged[key] = _merge(old, value, text)
        else:
            raise InputError(f"--set '{escape(text, 80)}': '{key}' is no table; set it as a value")
    return merged
