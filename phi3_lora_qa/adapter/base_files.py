"""Reads the config and tensor headers of a base model, without loading the model."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.architecture import ARCHITECTURES, Architecture, architecture_of, is_tied
from phi3_lora_qa.adapter.base_checks.base_foreign_files import require_own_files
from phi3_lora_qa.adapter.base_fingerprint import fingerprint
from phi3_lora_qa.adapter.base_modules import (
    EMBEDDING,
    HEAD,
    BaseModule,
    first_mismatch,
    modules_from_config,
    modules_from_shapes,
)
from phi3_lora_qa.adapter.phi_models import OTHER_ARCHITECTURES
from phi3_lora_qa.adapter.safetensors_file import READABLE, SafetensorsFile, TensorInfo, open_path
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import AdapterError, BaseModelError, escape
from phi3_lora_qa.reading import open_regular, read_regular

_MAX_CONFIG = 4 << 20
_MAX_INDEX = 32 << 20
_CACHED = "models--"
"""How the names of folders in the hub's cache start."""
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class BaseFiles:
    """The folder of a base model. ``modules`` is complete; tensors are read one at a time.

    ``id`` is the name of the base, such as a hub id; empty if it is unknown.
    """

    path: Path
    id: str
    architecture: Architecture
    config: Mapping[str, Any]
    modules: Mapping[str, BaseModule]
    vocabulary: int
    files: tuple[SafetensorsFile, ...]

    @classmethod
    def open(
        cls,
        path: Path | str,
        weights: tuple[SafetensorsFile, ...] = (),
        *,
        id: str = "",  # noqa: A002
    ) -> "BaseFiles":
        """Read config.json, and the headers of the weights if there are any.

        If there are no weights, or if they are quantised (with other names and shapes), the modules
        are derived from config.json.

        Args:
            path: The folder.
            weights: The weights, if they are not in the folder.
            id: The name of the base, if it is known.

        Raises:
            BaseModelError: The folder is unreadable, or its architecture is unknown.
        """
        folder = Path(path)
        require_own_files(folder)
        config = _read_object(folder, "config.json", _MAX_CONFIG)
        architecture = architecture_of(config)
        if architecture is None:
            raise BaseModelError(unknown_architecture(str(folder), config))
        files = weights or tuple(map(_open_weights, _weight_files(folder)))
        try:
            if files and not _is_quantised(config, files):
                shapes = {name: info.shape for file in files for name, info in file.tensors.items()}
                modules = modules_from_shapes(shapes, tied=is_tied(config))
            else:
                modules = modules_from_config(config)
        except (KeyError, TypeError, ValueError) as error:
            raise BaseModelError(
                f"config.json in {escape(str(folder))} is not valid for a {architecture.name}: "
                f"{error}; download it again"
            ) from error
        vocabulary = _embedding_rows(modules)
        return cls(
            path=folder,
            id=id,
            architecture=architecture,
            config=config,
            modules=modules,
            vocabulary=vocabulary,
            files=files,
        )

    @property
    def public_id(self) -> str:
        """The base's id: as it was passed, or from the hub's cache, or from its config; else empty.

        A path is not an id.
        """
        if self.id and not Path(self.id).is_absolute():
            return self.id
        cached = [part for part in self.path.parts if part.startswith(_CACHED)]
        if cached:
            return cached[-1].removeprefix(_CACHED).replace("--", "/")
        name = self.config.get("_name_or_path")
        return name if isinstance(name, str) else ""

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding table."""
        return is_tied(self.config)

    def first_mismatch(self) -> str:
        """Say where the weights are not those that config.json describes; empty if nowhere."""
        if not self.files or _is_quantised(self.config, self.files):
            return ""
        try:
            return first_mismatch(self.modules, self.config)
        except (KeyError, TypeError, ValueError) as error:
            return f"config.json is not valid: {error}"

    def require_consistent(self) -> None:
        """Raise BaseModelError if the weights are not those that config.json describes."""
        if mismatch := self.first_mismatch():
            raise BaseModelError(
                f"the weights of {escape(str(self.path))} do not match its config.json: "
                f"{escape(mismatch, 200)}; use a base whose config.json matches its weights"
            )

    def has_other_head(self) -> bool:
        """Whether the weights have a head that differs from the embedding table, in some rows."""
        import numpy as np

        head, table = (self._stored(module) for module in (HEAD, EMBEDDING))
        if head is None or table is None:
            return False
        if head[1].shape != table[1].shape:
            return True
        (head_file, head_info), (table_file, table_info) = head, table
        return any(
            not np.array_equal(
                head_file.tensor(head_info.name, rows), table_file.tensor(table_info.name, rows)
            )
            for rows in sample_rows(head_info.shape[0])
        )

    def _stored(self, module: str) -> tuple[SafetensorsFile, TensorInfo] | None:
        """Return the file and entry of the weight with exactly this name, if it can be decoded."""
        name = f"{module}.weight"
        found = ((f, f.tensors[name]) for f in self.files if name in f.tensors)
        return next((item for item in found if item[1].dtype in READABLE), None)

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the base weights (see `base_fingerprint`); empty if there are none."""
        return fingerprint(self.files, tied=self.is_tied)

    def tensor(self, module: str) -> tuple[SafetensorsFile, TensorInfo] | None:
        """Return the file and entry of a module's weight; a tied head uses the embedding table.

        None if there are no weights, or they are quantised and cannot be compared.
        """
        tied = module == HEAD and self.is_tied
        return self._stored(module) or (self._stored(EMBEDDING) if tied else None)

    def has_file(self, name: str) -> bool:
        """Whether the folder has an entry with this name."""
        return os.path.lexists(self.path / name)

    def read_bytes(self, name: str, max_bytes: int, /) -> bytes | None:
        """Return the content of a small file, such as a tokenizer's, or None if it is missing.

        Raises:
            BaseModelError: It cannot be read, or is larger than ``max_bytes``.
        """
        path = self.path / name
        try:
            return read_regular(path, max_bytes) if os.path.lexists(path) else None
        except OSError as error:
            raise _unreadable(path, error) from error

    def sha256(self, name: str, *, size: int) -> str:
        """Return the SHA-256 of the file with this name and size in bytes; empty if there is none.

        Raises:
            BaseModelError: It cannot be read.
        """
        import hashlib

        path = self.path / name
        try:
            if not path.exists() or path.stat().st_size != size:
                return ""
            with open_regular(path) as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error


def sample_rows(rows: int, *, each: int = 8) -> tuple[slice, ...]:
    """Return eight evenly spaced blocks of ``each`` rows, including the first and the last rows.

    If there are no more rows than that, all rows are one block.
    """
    if rows <= 8 * each:
        return (slice(0, rows),)
    starts = (number * (rows - each) // 7 for number in range(8))
    return tuple(slice(start, start + each) for start in starts)


def estimate_norm(base: BaseFiles, module: str) -> float:
    """Estimate the Frobenius norm of a base weight from evenly spaced rows; 0 if it has none."""
    place = base.tensor(module)
    if place is None or len(place[1].shape) != 2:
        return 0.0
    file, info = place
    sample = [file.tensor(info.name, rows) for rows in sample_rows(info.shape[0])]
    seen = sum(len(block) for block in sample)
    square = sum(float((block * block).sum()) for block in sample)
    return math.sqrt(square * info.shape[0] / max(1, seen))


def unknown_architecture(place: str, config: Mapping[str, Any]) -> str:
    """Return the message for a base whose architecture is not in the table.

    Args:
        place: The folder or file, for people.
        config: The content of its config.json.
    """
    names = ", ".join(ARCHITECTURES)
    model_type = config.get("model_type")
    if isinstance(model_type, str) and (other := OTHER_ARCHITECTURES.get(model_type)):
        return (
            f"{escape(place)} is a {other}, which has another architecture than Phi-3 (model type "
            f"{model_type!r}) and is not supported; pass a Phi-3, Phi-3.5 or Phi-4 "
            "(`base list` shows them)"
        )
    return (
        f"{escape(place)} is not a Phi-3: its model type is "
        f"{escape(repr(model_type), 60)}; pass the folder of a Phi-3 (other model "
        f"types that can be accepted: {names.removeprefix('phi3, ')})"
    )


def _is_quantised(config: Mapping[str, Any], files: tuple[SafetensorsFile, ...]) -> bool:
    """Whether the projections are stored as integers, as by bitsandbytes, GPTQ and AWQ."""
    return bool(config.get("quantization_config")) or any(
        "_proj." in name and info.dtype[0] in "IU"
        for file in files
        for name, info in file.tensors.items()
    )


def _embedding_rows(modules: Mapping[str, BaseModule]) -> int:
    module = modules.get(EMBEDDING)
    return module.inputs if module and module.inputs else 0


def _weight_files(folder: Path) -> list[Path]:
    if os.path.lexists(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if not os.path.lexists(folder / WEIGHTS_INDEX):
        return []
    return [folder / name for name in indexed_files(folder)]


def indexed_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the weight files in a folder's shard index.

    Raises:
        BaseModelError: The index is unreadable, names no files, or names a path.
    """
    table = _read_object(folder, WEIGHTS_INDEX, _MAX_INDEX).get("weight_map")
    names = set(table.values()) if isinstance(table, dict) else set()
    if not names or not all(isinstance(n, str) and n == Path(n).name for n in names):
        raise BaseModelError(
            f"{WEIGHTS_INDEX} in {escape(str(folder))} must list weight files in the same folder; "
            "download the base again"
        )
    return tuple(sorted(names))


def _read_object(folder: Path, name: str, max_bytes: int) -> dict[str, Any]:
    path = folder / name
    try:
        return parse_object(read_regular(path, max_bytes), where=str(path), max_bytes=max_bytes)
    except OSError as error:
        raise _unreadable(path, error) from error
    except AdapterError as error:
        raise BaseModelError(str(error)) from error


def _open_weights(path: Path) -> SafetensorsFile:
    try:
        return open_path(path, error=BaseModelError)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BaseModelError:
    return BaseModelError(
        f"cannot read {escape(str(path))}: {error.strerror}; "
        "pass a folder with a config.json, or a name that `base list` shows"
    )
