"""The devices of this machine: which can run a model, which one is used, and in which dtype."""

import sys
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.setting_specs import AUTO, CPU, CUDA, MPS

if TYPE_CHECKING:
    from torch import nn

_DRIVERS = ("nvidiactl", "nvidia0", "nvhost-gpu", "kfd", "dxg")
"""What Linux has in /dev if there is a GPU: NVIDIA's, a Jetson's, AMD's, and that of WSL."""


@dataclass(frozen=True, kw_only=True)
class FoundDevices:
    """The devices that were found.

    Attributes:
        names: The names of those that work, in torch's notation: ``cpu``, ``cuda:0``, ``mps``.
        reason: Why there is no other one.
    """

    names: tuple[str, ...]
    reason: str


def choose_device(requested: str) -> str:
    """Return the device that runs the models.

    Args:
        requested: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        ``cpu``, ``mps``, ``cuda:N`` or ``cuda``, which stands for all GPUs of the machine: one of
        them if it can hold the model. For ``auto`` it is a GPU if there is one that works.

    Raises:
        InputError: The machine has no such device; the message lists those that it has.
    """
    if requested == CPU or (requested == AUTO and not _may_have_gpu()):
        return CPU
    found = find_devices()
    kinds = [name.partition(":")[0] for name in found.names]
    if requested == AUTO:
        return next((kind for kind in kinds if kind != CPU), CPU)
    if requested in (*found.names, *kinds):
        return requested
    raise InputError(
        f"this machine has no device {escape(requested, 20)}: torch can use "
        f"{', '.join(found.names)}{f' ({found.reason})' if found.reason else ''}; pass one of "
        f"them with --phi3-device, or --phi3-device {AUTO}"
    )


@cache
def find_devices() -> FoundDevices:
    """Return the devices on which torch can really allocate, the CPU first."""
    import torch

    names, reasons = [CPU], []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            name = f"{CUDA}:{number}"
            if fault := _fault_of(name):
                reasons.append(f"{name} is not usable: {fault}")
            else:
                names.append(name)
    elif torch.version.cuda is None and torch.version.hip is None:
        reasons.append(f"torch {torch.__version__} is built without CUDA")
    else:
        reasons.append("torch finds no GPU; look at nvidia-smi or rocm-smi")
    if torch.backends.mps.is_available():
        if fault := _fault_of(MPS):
            reasons.append(f"{MPS} is not usable: {fault}")
        else:
            names.append(MPS)
    return FoundDevices(names=tuple(names), reason="; ".join(reasons))


def usable_gpus() -> tuple[int, ...]:
    """Return the numbers of the GPUs that work."""
    names = (name.partition(":") for name in find_devices().names)
    return tuple(int(number) for kind, _, number in names if kind == CUDA)


def default_dtype(device: str) -> str:
    """Return the dtype in which models are scored on a device unless another one is set.

    That is float32 on a CPU and on MPS; on a GPU it is bfloat16 where its hardware has that,
    otherwise float16.
    """
    if not device.startswith(CUDA):
        return "float32"
    import torch

    with torch.cuda.device(torch.device(device)):
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if supported else "float16"


def hardware_name(device: str) -> str:
    """Return what a device is called, such as ``NVIDIA H200``; empty for a CPU."""
    if device.startswith(CUDA):
        import torch

        return str(torch.cuda.get_device_name(torch.device(device)))
    return "Apple GPU" if device.startswith(MPS) else ""


def devices_of(model: "nn.Module") -> tuple[str, ...]:
    """Return the devices that a loaded model's tensors are on, such as ``("cuda:0",)``."""
    tensors = chain(model.parameters(), model.buffers())
    return tuple(sorted({str(tensor.device) for tensor in tensors}))


def _may_have_gpu() -> bool:
    """Return whether it is worth loading torch to look for a GPU."""
    if sys.platform == "linux":
        return any(Path("/dev", name).exists() for name in _DRIVERS)
    return True


def _fault_of(device: str) -> str:
    """Return why nothing can be allocated on a device; empty if it works."""
    import torch

    try:
        torch.zeros(8, device=device).add_(1).cpu()
    except Exception as error:  # drivers raise various errors
        return f"{type(error).__name__}: {escape(str(error), 120)}"
    return ""
