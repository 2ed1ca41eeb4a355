"""Exact conversions of LoRA files: read and write PEFT adapters, and fuse split projections.

Nothing here imports torch before a function needs it.
"""

from phi3_lora_qa.conversion.fused_blocks import (
    Blocks,
    Mask,
    expand_mask,
    phi3_blocks,
    phi3_layouts,
)
from phi3_lora_qa.conversion.peft_adapter import (
    PeftAdapter,
    PeftModule,
    read_adapter,
    require_fit,
    write_adapter,
)
from phi3_lora_qa.conversion.split_to_fused import fuse_adapter

__all__ = [
    "Blocks",
    "Mask",
    "PeftAdapter",
    "PeftModule",
    "expand_mask",
    "fuse_adapter",
    "phi3_blocks",
    "phi3_layouts",
    "read_adapter",
    "require_fit",
    "write_adapter",
]
