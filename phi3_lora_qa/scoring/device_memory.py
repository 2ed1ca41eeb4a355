"""The memory of the device that scores: what is free, and what happens if it is too small."""

from typing import TYPE_CHECKING

from phi3_lora_qa.errors import MachineError, escape
from phi3_lora_qa.models.free_memory import free_bytes
from phi3_lora_qa.scoring.prompts import TokenizedItem
from phi3_lora_qa.setting_specs import CPU, CUDA

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def free_on(device: "torch.device") -> int | None:
    """Return the free bytes of a GPU, which batches may use; None for other devices.

    What torch has cached and does not use counts as free.
    """
    if device.type != CUDA:
        return None
    import torch

    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free_bytes(str(device)) or 0) + cached


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch ran out of a device's memory; this process can then go on."""
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def release_unused(device: "torch.device") -> None:
    """Return memory to a GPU that torch has cached, so that smaller pieces fit."""
    if device.type == CUDA:
        import torch

        torch.cuda.empty_cache()


def too_large_alone(item: TokenizedItem, model: "PreTrainedModel") -> MachineError:
    """Return the error for an item that does not fit into the memory in a batch of its own."""
    device = str(model.device)
    smaller = "" if device == CPU else ", or --phi3-device cpu"
    return MachineError(
        f"the device {device} ran out of memory on the item {escape(item.id, 60)} alone, which has "
        f"{item.length} tokens: end other programs that use it, shorten the item, or use "
        f"--phi3-dtype bfloat16, --phi3-quantization nf4{smaller}"
    )
