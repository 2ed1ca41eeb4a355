"""loralib checkpoints on disk: factors as safetensors, and their description as JSON.

loralib itself uses ``torch.save(lora_state_dict(model))``, a pickle without rank, alpha or mask.
Such a file is read on request; the caller then supplies what it lacks.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.safetensors_file import open_path
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.conversion.read_tensors import is_pickle, unpickle
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.loralib_interop.loralib_config import LORALIB_CLASSES, LayerSpec
from phi3_lora_qa.reading import read_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

SCHEMA_VERSION = 1
SUFFIX = ".safetensors"
_MAX_JSON = 4 << 20
_SAVE_AGAIN = "save lora_state_dict(model) again, with safetensors.torch.save_file"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Factors by loralib's names, and the layers that they belong to.

    Attributes:
        tensors: By names such as ``model.layers.0.mlp.down_proj.lora_A``.
        layers: The described layers; None if the checkpoint has no description.

    Example:
        >>> Checkpoint(tensors={}, layers=None).layers is None
        True
    """

    tensors: "Mapping[str, Tensor]"
    layers: tuple[LayerSpec, ...] | None


def description_path(path: Path) -> Path:
    """Return the path of a checkpoint's description."""
    return path.with_name(f"{path.stem}.json") if path.name else path


def save_model(path: Path, model: "nn.Module") -> None:
    """Write the factors of an adapted model, without the biases of the base.

    Args:
        path: The .safetensors file; the description is written next to it, as .json.
        model: A model with loralib layers.

    Raises:
        InputError: As `lora_state_dict` and `describe_layers`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> layers = adapt(model, LoralibConfig(rank=2, alpha=4, targets=("0",)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(Path(folder, "lora.safetensors"), model)
        ...     read_checkpoint(Path(folder, "lora.safetensors")).layers == layers
        True
    """
    from phi3_lora_qa.loralib_interop.layer_replacement import describe_layers
    from phi3_lora_qa.loralib_interop.loralib_state import lora_state_dict

    layers = describe_layers(model)
    write_checkpoint(path, Checkpoint(tensors=lora_state_dict(model), layers=layers))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and its description.

    Args:
        path: The .safetensors file; the description is written next to it, as .json.
        checkpoint: The checkpoint, with its layers.

    Raises:
        InputError: The path does not end in .safetensors, or the layers are None.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "lora.safetensors")
        ...     write_checkpoint(path, Checkpoint(tensors={}, layers=()))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['lora.json', 'lora.safetensors']
    """
    from safetensors.torch import save_file

    if path.suffix != SUFFIX:
        raise InputError(
            f"the name of a checkpoint must end in {SUFFIX}: got {escape(path.name)}; "
            "choose another name"
        )
    if checkpoint.layers is None:
        raise InputError(
            f"cannot write {escape(path.name)}: the checkpoint has no layers; "
            "describe them with infer_layers"
        )
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
    """Read a checkpoint, with its description if there is one.

    Args:
        path: A safetensors file, or a file of torch.save.
        allow_pickle: Whether to read a pickle, too; torch then loads only tensors.

    Returns:
        The checkpoint; its tensors are on the CPU.

    Raises:
        InputError: The file cannot be read, or is a pickle and ``allow_pickle`` is not set.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> tensors = {"o_proj.lora_A": torch.ones(2, 4), "o_proj.lora_B": torch.zeros(3, 2)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "lora.pt")
        ...     torch.save(tensors, path)
        ...     sorted(read_checkpoint(path, allow_pickle=True).tensors)
        ['o_proj.lora_A', 'o_proj.lora_B']
    """
    shown = escape(str(path))
    try:
        pickled = is_pickle(path)
    except OSError as error:
        raise InputError(
            f"cannot read {shown}: {error.strerror}; "
            "pass the file in which loralib's state was saved"
        ) from error
    if pickled and not allow_pickle:
        raise InputError(
            f"{shown} was written by torch.save: it is a pickle, which can run code when it is "
            "read; if you trust its source, pass --allow-pickle (torch then loads only tensors)"
        )
    tensors = unpickle(path, _SAVE_AGAIN) if pickled else _load(path)
    layers = _read_layers(description_path(path)) if description_path(path).is_file() else None
    return Checkpoint(tensors=tensors, layers=layers)


def _load(path: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    open_path(path, error=InputError)  # validates the header
    # The library returns them in an order that changes between runs.
    return dict(sorted(load_file(path, device="cpu").items()))


def _read_layers(path: Path) -> tuple[LayerSpec, ...]:
    shown = escape(str(path))
    raw = parse_object(read_regular(path, _MAX_JSON), where=str(path), max_bytes=_MAX_JSON)
    entries = raw.get("layers")
    if raw.get("schema_version") != SCHEMA_VERSION or not isinstance(entries, list):
        raise InputError(
            f"{shown} is not a description of a loralib checkpoint of version {SCHEMA_VERSION}; "
            "move it away, and pass --alpha and --mask"
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
        or entry["kind"] not in LORALIB_CLASSES
        or not all(type(on) is bool for on in entry["mask"])
    ):
        raise InputError(f"{shown}: invalid description of a layer; write the checkpoint again")
    return LayerSpec(**{**entry, "mask": tuple(entry["mask"])})
