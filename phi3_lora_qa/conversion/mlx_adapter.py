"""Reads an adapter folder of mlx-lm: the same factors as PEFT's, transposed, with other names.

mlx-lm computes ``y + scale · (x @ lora_a) @ lora_b``, with lora_a (in, r) and lora_b (r, out), so
A = lora_aᵀ, B = lora_bᵀ, and s = scale. DoRA's ``m`` is PEFT's magnitude: both multiply the rows of
W + s · B·A by m / ‖row‖ (mlx_lm/tuner/lora.py and dora.py; peft/tuners/lora/dora.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.base_modules import ModuleKind
from phi3_lora_qa.adapter.config import read_raw_config
from phi3_lora_qa.adapter.folder import CONFIG, AdapterFolder
from phi3_lora_qa.conversion.base_name import known_original
from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule
from phi3_lora_qa.conversion.read_tensors import read_folder_tensors
from phi3_lora_qa.errors import AdapterError, escape

if TYPE_CHECKING:
    from torch import Tensor

MLX_WEIGHTS = "adapters.safetensors"
_OLD_WEIGHTS = "adapters.npz"
_A, _B, _M = "lora_a", "lora_b", "m"
_LAYERS = "model.layers."
_SAVE_AGAIN = "save the adapter again with mlx_lm.lora"


@dataclass(frozen=True, kw_only=True)
class _Config:
    is_dora: bool
    layers: int | None
    keys: tuple[str, ...]
    rank: int | None
    scale: float
    dropout: float
    trained_on: str


def read_mlx_adapter(path: Path, base: BaseFiles, scale: float | None = None) -> PeftAdapter:
    """Read an adapter folder of mlx-lm, which may be untrusted.

    Args:
        path: The folder, with adapter_config.json and adapters.safetensors.
        base: The base that the adapter was trained on.
        scale: The scale in training, if the config's is missing or has two meanings.

    Returns:
        The adapter with mlx-lm's deltas, in the stored dtype; ``base`` is the known base of which
        the config's model is a copy, or empty.

    Raises:
        AdapterError: The folder is unreadable, is not an adapter of mlx-lm, contains tensors that
            mlx-lm would ignore, or has something that PEFT cannot compute in the same way.

    Example:
        >>> import json, tempfile, torch
        >>> from safetensors.torch import save_file
        >>> from phi3_lora_qa.models.registry import bundled
        >>> base = BaseFiles.open(bundled("tiny/base"))
        >>> name = "model.layers.0.mlp.down_proj"
        >>> config = {"num_layers": 4, "lora_parameters": {"rank": 2, "scale": 20.0}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "adapter_config.json").write_text(json.dumps(config))
        ...     factors = {"lora_a": torch.ones(256, 2), "lora_b": torch.ones(2, 96)}
        ...     tensors = {f"{name}.{part}": factor for part, factor in factors.items()}
        ...     save_file(tensors, Path(folder, "adapters.safetensors"))
        ...     found = read_mlx_adapter(Path(folder), base).modules[0]
        >>> tuple(found.A.shape), found.scaling
        ((2, 256), 20.0)
    """
    folder = AdapterFolder.open(path)
    config = _read_config(read_raw_config(folder), scale)
    _require_weights(folder)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_folder_tensors(folder, MLX_WEIGHTS).items():
        module, _, part = name.rpartition(".")
        if part not in (_A, _B, _M) or not module:
            raise AdapterError(
                f"{MLX_WEIGHTS} contains {escape(name, 160)}, which is not a factor of mlx-lm's "
                "LoRA",
                "fuse the adapter with mlx_lm.fuse, and use the fused model instead",
            )
        parts.setdefault(module, {})[part] = tensor
    if not parts:
        raise AdapterError(f"{MLX_WEIGHTS} contains no factors", _SAVE_AGAIN)
    for module in parts:
        _require_used(module, config, base)
    modules = tuple(_module(name, found, config, base) for name, found in parts.items())
    return PeftAdapter(
        modules=modules, base=known_original(config.trained_on), dropout=config.dropout
    )


def _read_config(raw: Mapping[str, Any], scale: float | None) -> _Config:
    if "peft_type" in raw:
        raise AdapterError(
            f"{CONFIG} is PEFT's, not mlx-lm's: it has a peft_type", "use the adapter unchanged"
        )
    kind = raw.get("fine_tune_type") or ("dora" if raw.get("use_dora") is True else "lora")
    parameters = raw.get("lora_parameters")
    if kind == "full":
        raise AdapterError(
            f"{MLX_WEIGHTS} contains whole weights, not factors: fine_tune_type is 'full'",
            "fuse it with mlx_lm.fuse and use the fused model, or train with fine_tune_type lora",
        )
    if kind not in ("lora", "dora") or not isinstance(parameters, dict):
        found = (
            f"fine_tune_type is {kind!r}"
            if kind not in ("lora", "dora")
            else (f"lora_parameters is {parameters!r}")
        )
        raise AdapterError(
            f"{CONFIG} does not describe an adapter of mlx-lm: {escape(found, 120)}",
            "pass the folder that mlx_lm.lora wrote",
        )
    keys = parameters.get("keys") or ()
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        raise _bad_field("lora_parameters.keys", keys, "a list of names")
    layers = raw.get("num_layers", raw.get("lora_layers"))
    if layers is not None and type(layers) is not int:
        raise _bad_field("num_layers", layers, "an integer")
    rank = parameters.get("rank")
    if rank is not None and (type(rank) is not int or rank < 1):
        raise _bad_field("lora_parameters.rank", rank, "an integer of at least 1")
    dropout = _number(parameters.get("dropout") or 0.0, "lora_parameters.dropout")
    if not 0 <= dropout < 1:
        raise _bad_field("lora_parameters.dropout", dropout, "at least 0 and below 1")
    model = raw.get("model")
    return _Config(
        is_dora=kind == "dora",
        layers=layers,
        keys=tuple(keys),
        rank=rank,
        scale=_scale(raw, parameters) if scale is None else _number(scale, "--scale"),
        dropout=dropout,
        trained_on=model if isinstance(model, str) else "",
    )


def _scale(raw: Mapping[str, Any], parameters: Mapping[str, Any]) -> float:
    """Return the factor of lora_b · lora_a.

    It is ``scale`` alone since mlx-lm writes num_layers. Before, the name was lora_layers, and
    the first of those versions multiplied the scale by alpha / rank.
    """
    alpha, rank = parameters.get("alpha"), parameters.get("rank")
    if "scale" not in parameters:
        raise AdapterError(
            f"{CONFIG} has no lora_parameters.scale, and mlx-lm uses no other scaling",
            "pass --scale with the factor of training (mlx-lm's default is 20, alpha / rank in "
            "other programs)",
        )
    is_old = "num_layers" not in raw and "fine_tune_type" not in raw
    if is_old and alpha is not None and alpha != rank:
        raise AdapterError(
            f"{CONFIG} has alpha {escape(repr(alpha), 40)} and scale "
            f"{escape(repr(parameters['scale']), 40)}, which mlx-lm used in two ways when it wrote "
            "lora_layers",
            "pass --scale: scale * alpha / rank for mlx-lm before August 2024, the scale itself "
            "for later versions",
        )
    return _number(parameters["scale"], "lora_parameters.scale")


def _number(value: Any, field: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _bad_field(field, value, "a finite number")
    return float(value)


def _bad_field(field: str, value: object, requirement: str) -> AdapterError:
    return AdapterError(
        f"{field} must be {requirement}: got {escape(repr(value), 80)}",
        "set it to the value used in training",
    )


def _require_weights(folder: AdapterFolder) -> None:
    if folder.file(MLX_WEIGHTS):
        return
    if folder.file(_OLD_WEIGHTS):
        raise AdapterError(
            f"{_OLD_WEIGHTS} is the format of mlx-lm before March 2024, which is not read",
            'in its folder, run: python -c "import numpy; from safetensors.numpy import save_file;'
            f" save_file(dict(numpy.load('{_OLD_WEIGHTS}')), '{MLX_WEIGHTS}')\"",
        )
    raise AdapterError(
        f"{escape(str(folder.path))} has no {MLX_WEIGHTS}", "pass the folder that mlx_lm.lora wrote"
    )


def _require_used(module: str, config: _Config, base: BaseFiles) -> None:
    """Reject factors that mlx-lm would load into nothing, because training did not adapt them."""
    index, _, inner = module.removeprefix(_LAYERS).partition(".")
    in_layer = module.startswith(_LAYERS) and index.isascii() and index.isdecimal()
    total = _layer_count(base)
    first = total - config.layers if config.layers and config.layers > 0 else 0
    shown = escape(module, 120)
    if in_layer and len(index) < 9 and int(index) < first:
        raise AdapterError(
            f"mlx-lm ignores the factors of {shown}: num_layers is {config.layers}, so only layers "
            f"{first} to {total - 1} of this base are adapted",
            "correct num_layers, or pass the base that the adapter was trained on",
        )
    name = inner if in_layer else module
    if config.keys and not any(name == key or name.endswith(f".{key}") for key in config.keys):
        raise AdapterError(
            f"mlx-lm ignores the factors of {shown}: lora_parameters.keys does not contain {name}",
            "correct the keys",
        )


def _layer_count(base: BaseFiles) -> int:
    indices = (name.removeprefix(_LAYERS).partition(".")[0] for name in base.modules)
    return max((int(index) + 1 for index in indices if index.isdecimal()), default=0)


def _module(
    name: str, found: "Mapping[str, Tensor]", config: _Config, base: BaseFiles
) -> PeftModule:
    shown = escape(name, 120)
    expected = {_A, _B, _M} if config.is_dora else {_A, _B}
    if set(found) != expected:
        part = min(set(found) ^ expected)
        raise AdapterError(
            f"{shown} {'has' if part in found else 'lacks'} {part}, but fine_tune_type is "
            f"{'dora' if config.is_dora else 'lora'}",
            _SAVE_AGAIN,
        )
    a, b = found[_A], found[_B]
    at = base.modules.get(name)
    is_embedding = at is not None and at.kind is ModuleKind.EMBEDDING
    if a.ndim == 3:
        raise AdapterError(
            f"{shown} has factors for each expert of a mixture, which PEFT stores differently",
            "fuse the adapter with mlx_lm.fuse, and use the fused model instead",
        )
    if is_embedding and (config.is_dora or base.is_tied):
        reason = "DoRA of an embedding" if config.is_dora else "LoRA of tied tables"
        raise AdapterError(
            f"PEFT computes {reason} differently from mlx-lm: {shown}",
            "train without the embedding, or fuse the adapter with mlx_lm.fuse",
        )
    shapes_fit = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] > 0
    floats = all(tensor.is_floating_point() for tensor in found.values())
    if not shapes_fit or not floats or a.dtype != b.dtype:
        raise AdapterError(
            f"the factors of {shown} do not fit each other: lora_a is {tuple(a.shape)} of "
            f"{a.dtype}, lora_b {tuple(b.shape)} of {b.dtype}",
            _SAVE_AGAIN,
        )
    m = found.get(_M)
    if m is not None and tuple(m.shape) != (b.shape[1],):
        raise AdapterError(
            f"m of {shown} has the shape {tuple(m.shape)} instead of ({b.shape[1]},)", _SAVE_AGAIN
        )
    if config.rank not in (None, a.shape[1]):
        raise AdapterError(
            f"the factors of {shown} have rank {a.shape[1]}, but lora_parameters.rank is "
            f"{config.rank}",
            "pass the config of this training",
        )
    return PeftModule(
        name=name,
        A=a.T.contiguous(),
        B=b.T.contiguous(),
        scaling=config.scale,
        is_embedding=is_embedding,
        magnitude=m,
    )
