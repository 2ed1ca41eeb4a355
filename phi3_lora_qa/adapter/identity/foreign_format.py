"""The description of a folder that is not a LoRA adapter of PEFT."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ForeignFormat:
    """A format other than PEFT's LoRA.

    Attributes:
        kind: What the folder is, such as "an adapter of mlx-lm".
        where: The file that shows it.
        found: What shows it.
        fix: The way to a LoRA adapter of PEFT.
    """

    kind: str
    where: str
    found: str
    fix: str


TRAIN_LORA = "train again with peft.LoraConfig, and pass the folder that save_pretrained wrote"
MLX_FIX = "phi3-lora-qa convert mlx-to-peft FOLDER --base BASE -o DIR"
KOHYA_FIX = "phi3-lora-qa convert kohya-to-peft FILE --base BASE -o DIR"
TORCHTUNE_FIX = "phi3-lora-qa convert torchtune-to-peft FILE --base BASE --alpha ALPHA -o DIR"
LORALIB_FIX = "phi3-lora-qa convert loralib-to-peft FILE --base BASE --alpha ALPHA -o DIR"
NEMO_FIX = (
    'export it with NeMo 2, nemo.collections.llm.export_ckpt(path=CHECKPOINT, target="hf-peft", '
    "output_path=DIR), or with Megatron Bridge, AutoBridge.export_adapter_ckpt"
)
WHOLE_MODEL_FIX = (
    "pass the adapter as it was before it was merged: the folder that peft's save_pretrained wrote "
    "in training"
)
"""What was added to each weight is lost once the weights are rounded, and the base's are gone."""
