"""How much memory a base needs, from the headers of its files: nothing is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.base_modules import HEAD
from phi3_lora_qa.adapter.safetensors_file import READABLE, TensorInfo
from phi3_lora_qa.setting_specs import QUANTIZATIONS

_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_QUANTIZED: Mapping[str, float] = dict(zip(QUANTIZATIONS[1:], (0.5 + 1 / 64, 1.0), strict=True))
"""Bytes of each weight. In 4 bits each block of 64 weights has a scale, itself in 8 bits."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Bytes of a loaded base: its weights, and the keys and values of one token."""

    weights: int
    token: int


def model_size(base: BaseFiles, dtype: str, quantization: str = QUANTIZATIONS[0]) -> ModelSize:
    """Return the size of a base in a dtype, with its linear layers quantized or not.

    Args:
        base: The base's files; without weights the sizes are 0.
        dtype: ``float32``, ``bfloat16``, ``float16``, or another name for the dtypes on file.
        quantization: ``none``, ``nf4`` or ``int8``.
    """
    tensors = {name: info for file in base.files for name, info in file.tensors.items()}
    if base.is_tied:
        tensors.pop(f"{HEAD}.weight", None)
    linears = {name.rpartition(".")[2] for name in base.architecture.linears}
    small = _QUANTIZED.get(quantization)
    weights = 0.0
    for name, info in tensors.items():
        module, _, kind = name.rpartition(".")
        if small and kind == "weight" and module.rpartition(".")[2] in linears:
            weights += info.size * small
        else:
            weights += _stored(info, dtype)
    return ModelSize(weights=int(weights), token=token_bytes(base.config, _BYTES.get(dtype, 2)))


def token_bytes(config: Mapping[str, Any], item: int) -> int:
    """Return the bytes of one token's keys and values in all layers; 0 if config.json is invalid.

    Args:
        config: The content of a config.json.
        item: The bytes of one number.
    """
    layers, heads, hidden = (
        config.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")
    )
    pairs = config.get("num_key_value_heads") or heads
    if not all(isinstance(value, int) and value > 0 for value in (layers, heads, hidden, pairs)):
        return 0
    size = config.get("head_dim") or hidden // heads  # type: ignore[operator]
    return 2 * layers * pairs * size * item if isinstance(size, int) else 0  # type: ignore[operator]


def _stored(info: TensorInfo, dtype: str) -> int:
    """Return a tensor's bytes; integers, as of a quantized base, are loaded as they are."""
    if info.dtype in READABLE and dtype in _BYTES:
        return info.size * _BYTES[dtype]
    return info.stop - info.start
