"""A model's identity as one hash: proof that a base is the same, and was not changed."""

import hashlib
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.quantized_base import is_quantized_here

if TYPE_CHECKING:
    from torch import Tensor, nn


def checksum(model: "nn.Module") -> str:
    """Hash every parameter and buffer of a plain model: names, shapes, dtypes and bytes.

    The dtype is part of the identity: the same weights loaded as float32 and as bfloat16 are two
    models with different answers, and have different checksums. A tied weight counts under each
    of its names.

    Args:
        model: A model without PEFT layers; its tensors may be on any real device.

    Returns:
        The SHA-256 as 64 hexadecimal digits.

    Raises:
        BaseModelError: The model has PEFT layers.
    """
    import torch

    require_plain(model)
    digest = hashlib.sha256()
    tensors: Iterable[tuple[str, Tensor]] = chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    if is_quantized_here(model):  # with the scales, which are neither parameters nor buffers
        state = model.state_dict().items()
        tensors = [(name, tensor) for name, tensor in state if hasattr(tensor, "detach")]
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        head = f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0"
        digest.update(head.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_plain(model: "nn.Module") -> None:
    """Raise BaseModelError if the model has PEFT layers."""
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") or hasattr(module, "original_module"):
            raise BaseModelError(
                f"the model is not a plain base: it has a PEFT layer at {name}; pass the plain "
                "base, or call unload() on the PEFT model first"
            )
