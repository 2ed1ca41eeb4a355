"""Exact conversions of LoRA files: PEFT, mlx-lm, kohya, torchtune, and split to fused projections.

Nothing here imports torch before a function needs it.
"""

from phi3_lora_qa.conversion.equal_ranks import equalize_ranks
from phi3_lora_qa.conversion.fit_to_base import fit_to_base
from phi3_lora_qa.conversion.fused_blocks import (
    Blocks,
    Mask,
    expand_mask,
    phi3_blocks,
    phi3_layouts,
)
from phi3_lora_qa.conversion.kohya_adapter import read_kohya_file
from phi3_lora_qa.conversion.mlx_adapter import read_mlx_adapter
from phi3_lora_qa.conversion.peft_adapter import (
    PeftAdapter,
    PeftModule,
    read_adapter,
    require_fit,
    write_adapter,
)
from phi3_lora_qa.conversion.split_to_fused import fuse_adapter
from phi3_lora_qa.conversion.torchtune_adapter import from_torchtune

__all__ = [
    "Blocks",
    "Mask",
    "PeftAdapter",
    "PeftModule",
    "equalize_ranks",
    "expand_mask",
    "fit_to_base",
    "from_torchtune",
    "fuse_adapter",
    "phi3_blocks",
    "phi3_layouts",
    "read_adapter",
    "read_kohya_file",
    "read_mlx_adapter",
    "require_fit",
    "write_adapter",
]
