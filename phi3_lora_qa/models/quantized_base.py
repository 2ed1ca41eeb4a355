"""A base in 4 or 8 bits, through the optional package bitsandbytes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.errors import MissingDependencyError
from phi3_lora_qa.extras import is_installed, pip_command
from phi3_lora_qa.setting_specs import QUANTIZATIONS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import BitsAndBytesConfig

_UNQUANTIZED, _NF4, _INT8 = QUANTIZATIONS


def require_bitsandbytes(setting: str) -> None:
    """Raise unless bitsandbytes is installed.

    Raises:
        MissingDependencyError: Names the setting and the pip command.
    """
    if not is_installed("bitsandbytes"):
        raise MissingDependencyError(
            f"{setting} needs the package bitsandbytes, which is not installed; "
            f"run: {pip_command('qlora')}"
        )


def quantization_of(kind: str, dtype: str) -> "BitsAndBytesConfig | None":
    """Return the library's config for a kind of quantization; None for ``none``.

    Args:
        kind: ``none``; ``nf4``, with its scales quantized too, as for QLoRA; or ``int8``.
        dtype: The dtype in which products with weights in 4 bits are computed.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    if kind == _UNQUANTIZED:
        return None
    require_bitsandbytes(f"--phi3-quantization {kind}")
    import torch
    from transformers import BitsAndBytesConfig

    if kind == _INT8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=_NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def keep_weights_as_stored(model: "nn.Module") -> None:
    """Let layers in 4 bits compute on a CPU with their weights as they are.

    On processors with AVX512 bitsandbytes would reorder a layer's weight in place at its first
    product: a second module that shares the weight would then read it wrongly, and the order fails
    for a weight whose rows are not a multiple of a block (bitsandbytes 0.50).
    """
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized_here(model: "nn.Module") -> bool:
    """Return whether bitsandbytes quantized a model's weights when it was loaded."""
    return bool(
        getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
    )


def is_quantized(parameter: "Tensor") -> bool:
    """Return whether a parameter is one of bitsandbytes', which is more than its numbers."""
    return type(parameter).__module__.partition(".")[0] == "bitsandbytes"


def shared_parameter(parameter: Any) -> Any:
    """Return a new quantized parameter that shares the numbers and scales of another one."""
    kind: Any = type(parameter)
    copied = kind.__new__(kind, data=parameter.data, requires_grad=False)
    for name, value in vars(parameter).items():
        setattr(copied, name, value)
    return copied


def tensors_of_state(module: Any) -> "list[Tensor]":
    """Return the tensors that a layer in 8 bits keeps outside of its parameters."""
    import torch

    state = getattr(module, "state", None)
    if state is None or type(state).__module__.partition(".")[0] != "bitsandbytes":
        return []
    return [value for value in vars(state).values() if isinstance(value, torch.Tensor)]
