"""Tensors as float64 numpy, in which the mathematics is, and back."""

from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa.lora import Array

if TYPE_CHECKING:
    import torch


def to_float64(tensor: "torch.Tensor") -> Array:
    """Return a copy of a tensor's values as float64 numpy, exactly."""
    import torch

    # Without copy a float64 tensor would go on changing what was returned.
    return np.asarray(tensor.detach().to(device="cpu", dtype=torch.float64, copy=True).numpy())


def to_tensor(values: Array, dtype: str, device: "torch.device | str" = "cpu") -> "torch.Tensor":
    """Return values as a contiguous tensor of a dtype named as torch names it."""
    import torch

    wanted: torch.dtype = getattr(torch, dtype)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(device, wanted)
