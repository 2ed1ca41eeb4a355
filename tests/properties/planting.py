"""Plants faults into PEFT's methods: each is a mistake that a release could have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft.tuners.lora import layer

Patch = pytest.MonkeyPatch
Update = Callable[[Any, str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Fault:
    """A fault, the kind of layer that has it, and the property that must fail."""

    kind: str
    fails: str
    plant: Callable[[Patch], object]


FAULTS: dict[str, Fault] = {}


def fault(
    fails: str, kind: str = "peft.linear"
) -> Callable[[Callable[[Patch], object]], Callable[[Patch], object]]:
    def keep(plant: Callable[[Patch], object]) -> Callable[[Patch], object]:
        FAULTS[plant.__name__] = Fault(kind, fails, plant)
        return plant

    return keep


def after(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Pass a method's result through ``change(result, *arguments)``."""
    original = getattr(owner, name)
    static = isinstance(owner.__dict__.get(name), staticmethod)

    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(original(*args, **kwargs), *args, **kwargs)

    patch.setattr(owner, name, staticmethod(changed) if static else changed)


def forward(patch: Patch, update: Update) -> None:
    """Replace the forward pass of linear layers by the base plus these updates."""
    original = layer.Linear.forward

    def changed(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters or self.merged or kwargs.get("adapter_names"):
            return original(self, x, *args, **kwargs)
        y = self.base_layer(x)
        for name in self.active_adapters:
            y = y + update(self, name, x.to(self.lora_A[name].weight.dtype))
        return y.to(self.base_layer.weight.dtype)

    patch.setattr(layer.Linear, "forward", changed)


def plain(self: Any, name: str, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
    return found
