"""loralib (github.com/microsoft/LoRA): adapt models, find known faults, load, save and convert.

`adapt` replaces a model's layers by loralib's, `check_model` finds loralib's known faults in a
model that was built by hand, `load_lora_state` loads with a report, `to_peft` and `from_peft`
convert exactly. Nothing here imports torch or loralib before a function is called.
"""

from phi3_lora_qa.loralib_interop.layer_inference import infer_layers
from phi3_lora_qa.loralib_interop.layer_replacement import (
    adapt,
    describe_layers,
    plan_layers,
    replace_layers,
)
from phi3_lora_qa.loralib_interop.loralib_checkpoint import (
    Checkpoint,
    read_checkpoint,
    save_model,
    write_checkpoint,
)
from phi3_lora_qa.loralib_interop.loralib_config import LayerSpec, LoralibConfig, require_loralib
from phi3_lora_qa.loralib_interop.loralib_state import (
    LoadReport,
    load_lora_state,
    lora_state_dict,
    mark_only_lora_as_trainable,
)
from phi3_lora_qa.loralib_interop.model_check import Problem, check_model
from phi3_lora_qa.loralib_interop.peft_conversion import from_peft, to_peft

__all__ = [
    "Checkpoint",
    "LayerSpec",
    "LoadReport",
    "LoralibConfig",
    "Problem",
    "adapt",
    "check_model",
    "describe_layers",
    "from_peft",
    "infer_layers",
    "load_lora_state",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
    "plan_layers",
    "read_checkpoint",
    "replace_layers",
    "require_loralib",
    "save_model",
    "to_peft",
    "write_checkpoint",
]
