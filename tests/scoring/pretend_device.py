"""Tensors that claim to be on a device that this machine does not have; the CPU computes them.

As on a real device, a function of tensors on two devices raises an error, and what is created
without a device is on the CPU. So code that mixes devices fails here as it would fail on a GPU.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CPU = torch.device("cpu")
_GET, _SET = torch.Tensor.__getitem__, torch.Tensor.__setitem__
_MOVES = {"to", "cpu", "cuda", "copy_", "type_as", "_has_compatible_shallow_copy_type"}
"""Functions of tensors that may be on two devices."""


class Elsewhere(torch.Tensor):
    """A tensor whose values are on the CPU, and whose device is another one."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> "Elsewhere":
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("__get__", "__set__", "__repr__"):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return compute(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return compute(func, args, kwargs or {})


def numbered(device: Any) -> torch.device:
    """Return a device with its number, which torch adds to that of a tensor."""
    found = torch.device(device)
    return found if found == CPU or found.index is not None else torch.device(found.type, 0)


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Call a function with the values; the result is on the device of its arguments."""
    moves = func.__name__.partition(".")[0] in _MOVES
    operands = (args[0], *args[2:]) if func in (_GET, _SET) else (args, kwargs)  # not indices
    given = [part for part in tree_flatten(operands)[0] if isinstance(part, torch.Tensor)]
    devices = [part.device for part in given if len(part.shape) or part.device != CPU] or [CPU]
    if len(set(devices)) > 1 and not moves:
        raise RuntimeError(f"{func}: expected all tensors to be on one device: {set(devices)}")
    target = CPU if func.__name__ == "cpu" else devices[0]
    parts = tree_flatten((args, kwargs))[0]
    named = [part for part in parts if _is_device(part)]
    target = numbered(named[0]) if named else target
    owners = {id(part.held): part for part in parts if isinstance(part, Elsewhere)}
    own_args, own_kwargs = tree_map(_on_cpu, (args, kwargs))
    result = func(*own_args, **own_kwargs)

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, Elsewhere):
            return value
        owner = owners.get(id(value))
        if owner is not None and owner.device == target:
            return owner  # changed in place, or unchanged
        return value if target == CPU else Elsewhere(value, target)

    return tree_map(placed, result)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (
        isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda")
    )


def _on_cpu(value: Any) -> Any:
    if _is_device(value):
        return CPU
    return value.held if isinstance(value, Elsewhere) else value


class _Creation(TorchFunctionMode):
    """Creates tensors on devices that do not exist."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = [part for part in tree_flatten((args, kwargs or {}))[0] if _is_device(part)]
        if func is not torch.device and any(torch.device(device) != CPU for device in named):
            return compute(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@contextmanager
def pretended_devices() -> Iterator[None]:
    """Let torch create tensors on devices that do not exist."""
    with _Creation():
        yield


def moved(model: Any, *devices: str) -> Any:
    """Return a copy of a model whose parameters and buffers are on a device.

    With several devices, each layer is on the next one of them, and all else is on the first one.
    """
    found = copy.deepcopy(model)
    for path, module in found.named_modules():
        layer = path.removeprefix("model.layers.").partition(".")[0]
        number = int(layer) if path.startswith("model.layers.") else 0
        place = numbered(devices[number % len(devices)])
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(
                    Elsewhere(parameter.detach(), place), requires_grad=False
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer, place)
    return found
