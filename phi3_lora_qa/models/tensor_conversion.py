"""Convert tensors to float64 numpy arrays, in which the mathematics is done, and back."""

from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa.lora import Array

if TYPE_CHECKING:
    import torch


def to_float64(tensor: "torch.Tensor") -> Array:
    """Return a copy of a tensor's values as float64 numpy; the conversion is exact.

    Args:
        tensor: A floating-point tensor of any shape and dtype up to float64, on any device.

    Returns:
        float64, of the same shape; it shares no memory with the tensor.

    Example:
        >>> import torch
        >>> to_float64(torch.ones(2, dtype=torch.bfloat16)).tolist()
        [1.0, 1.0]
    """
    import torch

    # Without copy, the array would share the memory of a float64 tensor. It is moved first, because
    # some devices have no float64.
    return np.asarray(tensor.detach().cpu().to(torch.float64, copy=True).numpy())


def to_tensor(values: Array, dtype: str, device: "torch.device | str" = "cpu") -> "torch.Tensor":
    """Return values as a contiguous tensor.

    Args:
        values: float64, of any shape.
        dtype: The name of a torch dtype, such as "bfloat16"; values are rounded to it.
        device: Where the tensor is created.

    Returns:
        A tensor of the same shape.

    Example:
        >>> import numpy as np
        >>> to_tensor(np.ones(2), "float16").dtype
        torch.float16
    """
    import torch

    torch_dtype: torch.dtype = getattr(torch, dtype)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(device, torch_dtype)
