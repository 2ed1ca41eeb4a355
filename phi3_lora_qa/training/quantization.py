"""QLoRA: the base in 4 or 8 bits, with bitsandbytes, which is an optional package."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.errors import BaseModelError, InputError, MissingDependencyError, escape
from phi3_lora_qa.models.registry import BaseRef

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, Phi3ForCausalLM

PIP_COMMAND = 'pip install "phi3-lora-qa[qlora]"'


def require_bitsandbytes(wanted_by: str) -> None:
    """Raise unless bitsandbytes is installed.

    Raises:
        MissingDependencyError: With the pip command that brings it.
    """
    if find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            f"{wanted_by} needs the package bitsandbytes, which is not installed; "
            f"run: {PIP_COMMAND}"
        )


def quantization_config(values: Mapping[str, Any]) -> "BitsAndBytesConfig":
    """Build the library's config from checked values.

    Raises:
        InputError: A value that the library refuses, such as an unknown dtype.
        MissingDependencyError: bitsandbytes is not installed.
    """
    require_bitsandbytes("[quantization]")
    from transformers import BitsAndBytesConfig

    try:
        return BitsAndBytesConfig(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"[quantization]: {error}; mend that value") from error


def load_quantized(base: BaseRef, config: "BitsAndBytesConfig", dtype: str) -> "Phi3ForCausalLM":
    """Load a base quantized, and made ready for training.

    Args:
        base: The base that was found.
        config: How many bits, and which.
        dtype: Of what stays unquantized.

    Raises:
        BaseModelError: The base cannot be quantized here.
    """
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import Phi3ForCausalLM

    try:
        model = Phi3ForCausalLM.from_pretrained(
            _source(base),
            quantization_config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise BaseModelError(
            f"the base {base.id} cannot be quantized: {escape(str(error), 300)}; "
            "drop the [quantization] table to train it as it is"
        ) from error
    # Checkpointing is the trainer's to switch on, by its own setting.
    prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def _source(ref: BaseRef) -> str:
    return str(ref.folder) if ref.folder is not None else ref.id
