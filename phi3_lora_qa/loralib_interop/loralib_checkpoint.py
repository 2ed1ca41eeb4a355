"""A loralib checkpoint on disk: factors as safetensors, and beside them what they do not say.

loralib's own way is ``torch.save(lora_state_dict(model))``, a pickle without rank, alpha or mask.
Such a file is read when that is asked for, and what it lacks has to be given.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.safetensors_file import open_path
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.loralib_interop.loralib_config import LAYER_TYPES, LayerSpec
from phi3_lora_qa.reading import open_regular, read_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

SCHEMA_VERSION = 1
SUFFIX = ".safetensors"
_MAX_JSON = 4 << 20
_MAGIC = (b"PK\x03\x04", b"\x80")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Factors by loralib's names, such as ``model.layers.0.mlp.down_proj.lora_A``.

    ``layers`` is None where the file does not say what they mean.
    """

    tensors: "Mapping[str, Tensor]"
    layers: tuple[LayerSpec, ...] | None


def description_path(path: Path) -> Path:
    """Return where the description of a checkpoint lies."""
    return path.with_name(f"{path.stem}.json") if path.name else path


def save_model(path: Path, model: "nn.Module") -> None:
    """Write the factors of an adapted model, without the base's biases.

    Raises:
        InputError: As `lora_state_dict` and `describe`.
    """
    from phi3_lora_qa.loralib_interop.layer_replacement import describe_layers
    from phi3_lora_qa.loralib_interop.loralib_state import lora_state_dict

    layers = describe_layers(model)
    write_checkpoint(path, Checkpoint(tensors=lora_state_dict(model), layers=layers))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and its description.

    Raises:
        InputError: The path does not end in .safetensors, or there is no description to write.
    """
    from safetensors.torch import save_file

    if path.suffix != SUFFIX or checkpoint.layers is None:
        raise InputError(f"{escape(str(path))} is no {SUFFIX} file; end its name so")
    content = {
        "schema_version": SCHEMA_VERSION,
        "layers": [asdict(layer) for layer in checkpoint.layers],
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    description_path(path).write_text(text + "\n", encoding="utf-8")
    tensors = {n: t.detach().cpu().contiguous() for n, t in checkpoint.tensors.items()}
    save_file(tensors, path)
    path.chmod(description_path(path).stat().st_mode)


def read_checkpoint(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint, with its description where one lies beside it.

    Args:
        path: A safetensors file, or one of torch.save.
        allow_pickle: Read a pickle too, restricted by torch to tensors.

    Raises:
        InputError: The file cannot be read, or is a pickle and ``allow_pickle`` is not set.
    """
    shown = escape(str(path))
    try:
        with open_regular(path) as handle:
            head = handle.read(9)
    except OSError as error:
        raise InputError(
            f"{shown} is no file that can be read ({error.strerror}); "
            "give the checkpoint that loralib's state was saved in"
        ) from error
    is_pickle = head.startswith(_MAGIC) and head[8:9] != b"{"
    if is_pickle and not allow_pickle:
        raise InputError(
            f"{shown} was written by torch.save: a pickle, which can run code when it is read; "
            "if you know where it comes from, give --allow-pickle (torch then reads tensors alone)"
        )
    tensors = _unpickle(path, shown) if is_pickle else _load(path)
    layers = _read_layers(description_path(path)) if description_path(path).is_file() else None
    return Checkpoint(tensors=tensors, layers=layers)


def _load(path: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    open_path(path, error=InputError)  # its strict reading of the header
    # The library gives them in an order that changes from run to run.
    return dict(sorted(load_file(path, device="cpu").items()))


def _unpickle(path: Path, shown: str) -> "dict[str, Tensor]":
    import torch

    again = "save loralib's lora_state_dict(model), with safetensors.torch.save_file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch thinks of the pickle's age
            content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a hostile pickle brings up
        reason = escape(str(error).partition("\n")[0], 200)
        raise InputError(f"{shown} holds more than tensors ({reason}); {again}") from error
    if not isinstance(content, dict) or not all(
        isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in content.items()
    ):
        raise InputError(f"{shown} is no table of tensors; {again}")
    return dict(content)


def _read_layers(path: Path) -> tuple[LayerSpec, ...]:
    shown = escape(str(path))
    raw = parse_object(read_regular(path, _MAX_JSON), where=str(path), max_bytes=_MAX_JSON)
    entries = raw.get("layers")
    if raw.get("schema_version") != SCHEMA_VERSION or not isinstance(entries, list):
        raise InputError(
            f"{shown} is no description of a loralib checkpoint of version {SCHEMA_VERSION}; "
            "move it away, and say alpha and masks by options"
        )
    return tuple(_layer(entry, shown) for entry in entries)


def _layer(entry: Any, shown: str) -> LayerSpec:
    types: Mapping[str, tuple[type, ...]] = {
        "name": (str,), "kind": (str,), "rank": (int,), "alpha": (int, float),
        "dropout": (int, float), "mask": (list,), "groups": (int,),
    }  # fmt: skip
    fits = isinstance(entry, dict) and set(entry) == set(types)
    fits = fits and all(type(entry[name]) in kinds for name, kinds in types.items())
    if (
        not fits
        or entry["kind"] not in LAYER_TYPES
        or not all(type(on) is bool for on in entry["mask"])
    ):
        raise InputError(
            f"{shown}: a layer is not described as it is written here; write the checkpoint again"
        )
    return LayerSpec(**{**entry, "mask": tuple(entry["mask"])})
