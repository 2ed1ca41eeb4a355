"""loralib (github.com/microsoft/LoRA) in place of a model's layers, with its known faults guarded.

`adapt` puts loralib's layers into a model, `check` explains what is wrong with a model that was
built with loralib by hand, `load_lora_state` loads with a report, `to_peft` and `from_peft`
convert exactly. Nothing here imports torch or loralib before a function is called.
"""

from phi3_lora_qa.loralib_interop.layer_inference import infer_layers
from phi3_lora_qa.loralib_interop.layer_replacement import adapt, describe, plan, replace
from phi3_lora_qa.loralib_interop.loralib_checkpoint import (
    Checkpoint,
    read_checkpoint,
    save_model,
    write_checkpoint,
)
from phi3_lora_qa.loralib_interop.loralib_config import Layer, LoralibConfig, require_loralib
from phi3_lora_qa.loralib_interop.loralib_state import (
    LoadReport,
    load_lora_state,
    lora_state_dict,
    mark_only_lora_as_trainable,
)
from phi3_lora_qa.loralib_interop.model_check import Problem, check
from phi3_lora_qa.loralib_interop.peft_conversion import from_peft, to_peft

__all__ = [
    "Checkpoint",
    "Layer",
    "LoadReport",
    "LoralibConfig",
    "Problem",
    "adapt",
    "check",
    "describe",
    "from_peft",
    "infer_layers",
    "load_lora_state",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
    "plan",
    "read_checkpoint",
    "replace",
    "require_loralib",
    "save_model",
    "to_peft",
    "write_checkpoint",
]
