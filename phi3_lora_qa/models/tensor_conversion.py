"""Convert tensors to float64 numpy arrays, in which the mathematics is done, and back."""

from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa.lora import Array

if TYPE_CHECKING:
    import torch


def to_float64(tensor: "torch.Tensor") -> Array:
    """Return an exact copy of a tensor's values as a float64 array."""
    import torch

    # Without copy, the array would share the memory of a float64 tensor.
    return np.asarray(tensor.detach().to(device="cpu", dtype=torch.float64, copy=True).numpy())


def to_tensor(values: Array, dtype: str, device: "torch.device | str" = "cpu") -> "torch.Tensor":
    """Return values as a contiguous tensor of a dtype, which has torch's name, such as bfloat16."""
    import torch

    torch_dtype: torch.dtype = getattr(torch, dtype)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(device, torch_dtype)
