"""QLoRA: the base in 4 or 8 bits, through the optional package bitsandbytes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.errors import BaseModelError, InputError, escape
from phi3_lora_qa.models.model_class import causal_lm_class
from phi3_lora_qa.models.quantized_base import require_bitsandbytes
from phi3_lora_qa.models.registry import BaseRef, read_base_config

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel


def quantization_config(values: Mapping[str, Any]) -> "BitsAndBytesConfig":
    """Return the library's config for checked values.

    Raises:
        InputError: The library rejects a value, such as an unknown dtype.
        MissingDependencyError: bitsandbytes is not installed.
    """
    require_bitsandbytes("[quantization]")
    from transformers import BitsAndBytesConfig

    try:
        return BitsAndBytesConfig(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"[quantization]: {error}; fix that value") from error


def load_quantized(base: BaseRef, config: "BitsAndBytesConfig", dtype: str) -> "PreTrainedModel":
    """Return the quantized base, prepared for training.

    Args:
        base: The base to load.
        config: The quantization.
        dtype: Dtype of the parts that stay unquantized.

    Raises:
        BaseModelError: The base cannot be quantized on this machine.
    """
    import torch
    from peft import prepare_model_for_kbit_training

    model_class = causal_lm_class(read_base_config(base))
    try:
        model = model_class.from_pretrained(
            _source(base),
            quantization_config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise BaseModelError(
            f"the base {base.id} cannot be quantized: {escape(str(error), 300)}; "
            "remove the [quantization] table to train without quantization"
        ) from error
    # The trainer turns gradient checkpointing on by its own setting.
    prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def _source(ref: BaseRef) -> str:
    return str(ref.folder) if ref.folder is not None else ref.id
