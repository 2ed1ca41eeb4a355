"""Reads the config and tensor headers of a base model, without loading the model."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from phi3_lora_qa.adapter.base_fingerprint import fingerprint
from phi3_lora_qa.adapter.safetensors_file import READABLE, SafetensorsFile, TensorInfo, open_path
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import AdapterError, BaseModelError, escape
from phi3_lora_qa.reading import open_regular, read_regular

_MAX_CONFIG = 4 << 20
_MAX_INDEX = 32 << 20
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


class ModuleKind(StrEnum):
    """The kind of a base module; it determines the shapes of the LoRA factors."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    NORM = "norm"


@dataclass(frozen=True, kw_only=True)
class BaseModule:
    """A module with a weight. Sizes are None if there is no base.

    The weight of a linear module has the shape (outputs, inputs), that of an embedding (inputs,
    outputs), and that of a norm (outputs,).
    """

    name: str
    kind: ModuleKind
    inputs: int | None = None
    outputs: int | None = None
    bias: bool = False

    @property
    def leaf(self) -> str:
        """The last part of the name, such as ``qkv_proj``."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class BaseFiles:
    """The folder of a base model. ``modules`` is complete; tensors are read one at a time.

    ``id`` is the name of the base, such as a hub id; empty if it is unknown.
    """

    path: Path
    id: str
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
            BaseModelError: The folder is unreadable, or is not a Phi-3.
        """
        folder = Path(path)
        config = _read_object(folder, "config.json", _MAX_CONFIG)
        if config.get("model_type") != "phi3":
            raise BaseModelError(
                f"{escape(str(folder))} is not a Phi-3: its model type is "
                f"{escape(str(config.get('model_type')))!r}; pass the folder of a Phi-3"
            )
        files = weights or tuple(map(_open_weights, _weight_files(folder)))
        tied = bool(config.get("tie_word_embeddings", False))
        try:
            readable = bool(files) and not _is_quantised(config, files)
            modules = _from_tensors(files, tied=tied) if readable else phi3_modules(config)
        except (KeyError, TypeError, ValueError) as error:
            raise BaseModelError(
                f"config.json in {escape(str(folder))} is not valid for a Phi-3: {error}; "
                "download it again"
            ) from error
        vocabulary = _embedding_rows(modules)
        return cls(
            path=folder,
            id=id,
            config=config,
            modules=modules,
            vocabulary=vocabulary,
            files=files,
        )

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the base weights (see `base_fingerprint`); empty if there are none."""
        return fingerprint(self.files, tied=bool(self.config.get("tie_word_embeddings", False)))

    def tensor(self, module: str) -> tuple[SafetensorsFile, TensorInfo] | None:
        """Return the file and entry of a module's weight; a tied head uses the embedding table.

        None if there are no weights, or they are quantised and cannot be compared.
        """
        tied = module == "lm_head" and self.config.get("tie_word_embeddings")
        names = [f"{module}.weight", *(["model.embed_tokens.weight"] if tied else [])]
        found = ((f, f.tensors[name]) for name in names for f in self.files if name in f.tensors)
        return next((item for item in found if item[1].dtype in READABLE), None)

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


def phi3_skeleton(layers: int) -> Mapping[str, BaseModule]:
    """Return the modules of a Phi-3 with this number of layers, without sizes."""
    kinds = {
        "self_attn.qkv_proj": ModuleKind.LINEAR,
        "self_attn.o_proj": ModuleKind.LINEAR,
        "mlp.gate_up_proj": ModuleKind.LINEAR,
        "mlp.down_proj": ModuleKind.LINEAR,
        "input_layernorm": ModuleKind.NORM,
        "post_attention_layernorm": ModuleKind.NORM,
    }
    inner = {f"model.layers.{i}.{n}": kind for i in range(layers) for n, kind in kinds.items()}
    named = (
        {"model.embed_tokens": ModuleKind.EMBEDDING}
        | inner
        | {
            "model.norm": ModuleKind.NORM,
            "lm_head": ModuleKind.LINEAR,
        }
    )
    return MappingProxyType({n: BaseModule(name=n, kind=kind) for n, kind in named.items()})


def phi3_modules(config: Mapping[str, Any]) -> Mapping[str, BaseModule]:
    """Return the modules of the Phi-3 that a config.json describes.

    Raises:
        KeyError, ValueError: A size is missing or invalid.
    """
    hidden, middle = _size(config, "hidden_size"), _size(config, "intermediate_size")
    heads, vocabulary = _size(config, "num_attention_heads"), _size(config, "vocab_size")
    groups = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    sizes = {
        "qkv_proj": (hidden, (heads + 2 * groups) * head),
        "o_proj": (heads * head, hidden),
        "gate_up_proj": (hidden, 2 * middle),
        "down_proj": (middle, hidden),
        "embed_tokens": (vocabulary, hidden),
        "lm_head": (hidden, vocabulary),
    }
    bias = bool(config.get("attention_bias", False))
    return MappingProxyType(
        {
            name: BaseModule(
                name=name,
                kind=module.kind,
                inputs=sizes.get(module.leaf, (hidden, hidden))[0],
                outputs=sizes.get(module.leaf, (hidden, hidden))[1],
                bias=bias and module.leaf in ("qkv_proj", "o_proj"),
            )
            for name, module in phi3_skeleton(_size(config, "num_hidden_layers")).items()
        }
    )


def _is_quantised(config: Mapping[str, Any], files: tuple[SafetensorsFile, ...]) -> bool:
    """Whether the projections are stored as integers, as by bitsandbytes, GPTQ and AWQ."""
    return bool(config.get("quantization_config")) or any(
        "_proj." in name and info.dtype[0] in "IU"
        for file in files
        for name, info in file.tensors.items()
    )


def _from_tensors(files: tuple[SafetensorsFile, ...], *, tied: bool) -> Mapping[str, BaseModule]:
    shapes = {name: info.shape for file in files for name, info in file.tensors.items()}
    modules = {}
    for name, shape in shapes.items():
        module, _, part = name.rpartition(".")
        if part != "weight" or len(shape) not in (1, 2):
            continue
        embedding = module.endswith("embed_tokens")
        kind = ModuleKind.EMBEDDING if embedding else ModuleKind.LINEAR
        first, last = shape[0], shape[-1]
        modules[module] = BaseModule(
            name=module,
            kind=kind if len(shape) == 2 else ModuleKind.NORM,
            inputs=first if embedding else last,
            outputs=last if embedding else first,
            bias=f"{module}.bias" in shapes,
        )
    embedding_module = modules.get("model.embed_tokens")
    if tied and embedding_module and "lm_head" not in modules:
        modules["lm_head"] = BaseModule(
            name="lm_head",
            kind=ModuleKind.LINEAR,
            inputs=embedding_module.outputs,
            outputs=embedding_module.inputs,
        )
    if not embedding_module:
        raise ValueError("the weights have no model.embed_tokens")
    return MappingProxyType(modules)


def _embedding_rows(modules: Mapping[str, BaseModule]) -> int:
    module = modules.get("model.embed_tokens")
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


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config[name]
    if type(value) is not int or not 0 < value < 1 << 24 or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}")
    return value
