"""Reads a LoRA file in the format of kohya's sd-scripts, as other trainers also write it.

A module's name is a prefix and the module's name with underscores for dots. ``lora_down`` is A,
``lora_up`` is B, and ``alpha`` is one number for each module: s = alpha / rank, and 1 without an
alpha (networks/lora.py in kohya-ss/sd-scripts).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.conversion.fit_to_base import adaptable_names
from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule
from phi3_lora_qa.conversion.read_tensors import read_file_tensors
from phi3_lora_qa.errors import AdapterError, escape

if TYPE_CHECKING:
    from torch import Tensor

_DOWN, _UP, _ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
_PREFIXES = (
    "lora_unet_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_te_", "lora_transformer_",
    "lora_llm_", "lycoris_", "lora_", "",
)  # fmt: skip
_INNER = "model."
"""The part of a base's names that a trainer of the inner model leaves out."""

_DIFFUSION = ("lora_unet_", "lora_te", "diffusion_model", "transformer_blocks", "text_model_")
_OTHER_KINDS = {
    "lora_mid": "a Tucker decomposition (LoCon)",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "LyCORIS's DoRA",
    "oft_": "OFT",
    "diff": "whole weight differences",
    "w_norm": "weights of norms",
    "b_norm": "biases of norms",
    "scalar": "a trained scalar",
    "lora_A": "PEFT's LoRA",
    "lora_a": "mlx-lm's LoRA",
}
_TRAIN_LORA = "train plain LoRA (network_module networks.lora), or merge the file and use the model"


def read_kohya_file(path: Path, base: BaseFiles) -> PeftAdapter:
    """Read a file of kohya's format, which may be untrusted.

    Args:
        path: The .safetensors file.
        base: The base that it was trained on; its names decide where the dots were.

    Returns:
        The adapter with the same deltas, in the stored dtype.

    Raises:
        AdapterError: The file is unreadable, is for a diffusion model, contains more than plain
            factors of linear layers, or a name does not belong to exactly one module of the base.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import save_file
        >>> from phi3_lora_qa.models.registry import bundled
        >>> base = BaseFiles.open(bundled("tiny/base"))
        >>> name = "lora_model_layers_0_mlp_down_proj"
        >>> tensors = {f"{name}.lora_down.weight": torch.ones(2, 256)}
        >>> tensors[f"{name}.lora_up.weight"] = torch.ones(96, 2)
        >>> tensors[f"{name}.alpha"] = torch.tensor(4.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file(tensors, Path(folder, "lora.safetensors"))
        ...     found = read_kohya_file(Path(folder, "lora.safetensors"), base).modules[0]
        >>> found.name, found.scaling
        ('model.layers.0.mlp.down_proj', 2.0)
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_file_tensors(path).items():
        part = next((part for part in (_DOWN, _UP, _ALPHA) if key.endswith(f".{part}")), "")
        if not part:
            raise _unknown_part(key)
        parts.setdefault(key.removesuffix(f".{part}"), {})[part] = tensor
    if not parts:
        raise AdapterError(f"{escape(path.name)} contains no factors", "pass the trained file")
    table = _underscored(base)
    modules: dict[str, PeftModule] = {}
    for written, found in parts.items():
        name = _resolve(written, table)
        if name in modules:
            raise AdapterError(
                f"two modules of the file have the name {escape(name, 120)}: one is "
                f"{escape(written, 120)}",
                "remove one of the two",
            )
        modules[name] = _module(name, found)
    return PeftAdapter(modules=tuple(modules.values()), base="")


def _underscored(base: BaseFiles) -> Mapping[str, str]:
    """Return the module by each name that it may have; "" if the name has two meanings."""
    table: dict[str, str] = {}
    for name in adaptable_names(base):
        for written in {name, name.removeprefix(_INNER)}:
            key = written.replace(".", "_")
            table[key] = name if table.get(key, name) == name else ""
    return table


def _resolve(written: str, table: Mapping[str, str]) -> str:
    flat = written.replace(".", "_")
    for prefix in _PREFIXES:
        name = table.get(flat.removeprefix(prefix)) if flat.startswith(prefix) else None
        if name:
            return name
        if name is not None:
            raise AdapterError(
                f"{escape(written, 120)} may be one of several modules of the base",
                "name the modules with dots in the file",
            )
    if flat.startswith(_DIFFUSION):
        raise AdapterError(
            f"this is a LoRA of a diffusion model: it adapts {escape(written, 120)}",
            "use it with the program for which it was trained; it does not fit a language model",
        )
    raise AdapterError(
        f"the base has no module {escape(written, 160)}",
        "pass the base that the file was trained on",
    )


def _module(name: str, found: "Mapping[str, Tensor]") -> PeftModule:
    shown = escape(name, 120)
    missing = [part for part in (_DOWN, _UP) if part not in found]
    if missing:
        raise AdapterError(f"{shown} has no {missing[0]}", "copy the file again")
    down, up = found[_DOWN], found[_UP]
    shapes_fit = down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1] > 0
    if not shapes_fit or down.dtype != up.dtype or not down.is_floating_point():
        raise AdapterError(
            f"the factors of {shown} are not those of a linear layer: lora_down is "
            f"{tuple(down.shape)} of {down.dtype}, lora_up {tuple(up.shape)} of {up.dtype}",
            _TRAIN_LORA,
        )
    rank = int(down.shape[0])
    alpha = found.get(_ALPHA)
    return PeftModule(
        name=name, A=down, B=up, scaling=1.0 if alpha is None else _alpha(alpha, shown) / rank
    )


def _alpha(tensor: "Tensor", shown: str) -> float:
    value = float(tensor) if tensor.numel() == 1 else float("nan")
    if not abs(value) < float("inf") or value == 0:
        raise AdapterError(
            f"the alpha of {shown} must be one finite number other than 0 (0 means the rank to "
            f"some programs): got {f'{value:g}' if tensor.numel() == 1 else tuple(tensor.shape)}",
            "set it to the alpha used in training",
        )
    return value


def _unknown_part(key: str) -> AdapterError:
    shown = escape(key, 160)
    tail = key.rpartition(".")[0].rpartition(".")[2], key.rpartition(".")[2]
    for start, kind in _OTHER_KINDS.items():
        if any(part.startswith(start) for part in tail):
            return AdapterError(
                f"the file contains {kind}, not kohya's plain LoRA: {shown}", _TRAIN_LORA
            )
    return AdapterError(
        f"{shown} is not a name of kohya's format: it ends in none of {_DOWN}, {_UP}, {_ALPHA}",
        "pass a file that sd-scripts or a compatible trainer wrote",
    )
