"""The adapter weights of torchtune for a Phi-3: PEFT's factors under torchtune's names.

torchtune does not write Phi-3's adapters in PEFT's format. It splits qkv_proj and gate_up_proj into
equal rows in the same order, and does not permute the rows of q and k as it does for Llama
(torchtune/models/phi3/_convert_weights.py). s = alpha / rank; alpha is only in the recipe.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule
from phi3_lora_qa.errors import AdapterError, InputError, escape

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}
_A, _B = "lora_a.weight", "lora_b.weight"


def from_torchtune(
    tensors: "Mapping[str, Tensor]", base: BaseFiles, *, alpha: float
) -> PeftAdapter:
    """Rename the factors of a torchtune adapter of a Phi-3.

    Args:
        tensors: The content of torchtune's adapter file.
        base: The base; only Phi-3 keeps the order of the rows.
        alpha: lora_alpha of the recipe.

    Returns:
        The adapter with split projections and the same deltas.

    Raises:
        InputError: The base is not a Phi-3, so torchtune reorders rows, or alpha is not finite.
        AdapterError: A tensor is not a factor with torchtune's name, or two do not fit each other.

    Example:
        >>> import torch
        >>> from phi3_lora_qa.models.registry import bundled
        >>> base = BaseFiles.open(bundled("tiny/base"))
        >>> a, b = torch.ones(2, 256), torch.ones(96, 2)
        >>> tensors = {"layers.0.mlp.w2.lora_a.weight": a, "layers.0.mlp.w2.lora_b.weight": b}
        >>> found = from_torchtune(tensors, base, alpha=4).modules[0]
        >>> found.name, found.scaling
        ('model.layers.0.mlp.down_proj', 2.0)
    """
    if base.config.get("model_type") != "phi3":
        raise InputError(
            "torchtune reorders the rows of q and k for this base; convert the adapter with "
            "torchtune, which writes PEFT's format for it (save_adapter_weights_only=True)"
        )
    if not math.isfinite(alpha):
        raise InputError(f"alpha must be finite: got {alpha}; pass the lora_alpha of the recipe")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part = next((part for part in (_A, _B) if key.endswith(f".{part}")), "")
        name = _module_name(key.removesuffix(f".{part}")) if part else ""
        if not name:
            kind = "a magnitude of DoRA" if key.endswith(".magnitude") else "an unknown name"
            raise AdapterError(
                f"{escape(key, 160)} is {kind}, not a factor of torchtune's LoRA",
                "pass the adapter file (adapter_model.pt or adapter_0.pt) of a LoRA recipe",
            )
        parts.setdefault(name, {})[part] = tensor
    if not parts:
        raise AdapterError("the file contains no factors", "pass torchtune's adapter file")
    return PeftAdapter(
        modules=tuple(_module(name, found, alpha) for name, found in parts.items()), base=""
    )


def _module_name(name: str) -> str:
    layers, _, rest = name.partition(".")
    index, _, inner = rest.partition(".")
    is_layer = layers == "layers" and index.isascii() and index.isdecimal()
    return f"model.layers.{index}.{_NAMES[inner]}" if is_layer and inner in _NAMES else ""


def _module(name: str, found: "Mapping[str, Tensor]", alpha: float) -> PeftModule:
    if len(found) != 2:
        missing = _B if _A in found else _A
        raise AdapterError(f"{escape(name, 120)} has no {missing}", "copy the file again")
    a, b = found[_A], found[_B]
    fits = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] > 0
    if not fits or a.dtype != b.dtype or not a.is_floating_point():
        raise AdapterError(
            f"lora_a and lora_b of {escape(name, 120)} do not fit each other: {tuple(a.shape)} of "
            f"{a.dtype}, {tuple(b.shape)} of {b.dtype}",
            "copy the file again",
        )
    return PeftModule(name=name, A=a, B=b, scaling=alpha / int(a.shape[0]))
