"""loralib (github.com/microsoft/LoRA) in place of a model's layers, with its known faults guarded.

`adapt` puts loralib's layers into a model, `check` explains what is wrong with a model that was
built with loralib by hand, `load_lora_state` loads with a report, `to_peft` and `from_peft`
convert exactly. Nothing here imports torch or loralib before a function is called.
"""

from phi3_lora_qa.engines.loralib.check import Problem, check
from phi3_lora_qa.engines.loralib.checkpoint import (
    Checkpoint,
    read_checkpoint,
    save_model,
    write_checkpoint,
)
from phi3_lora_qa.engines.loralib.config import Layer, LoralibConfig, require_loralib
from phi3_lora_qa.engines.loralib.convert import from_peft, to_peft
from phi3_lora_qa.engines.loralib.infer import infer_layers
from phi3_lora_qa.engines.loralib.layers import adapt, describe, plan, replace
from phi3_lora_qa.engines.loralib.state import (
    LoadReport,
    load_lora_state,
    lora_state_dict,
    mark_only_lora_as_trainable,
)

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
