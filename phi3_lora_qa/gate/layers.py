"""The adapter's linear modules, each from both sides: its factors on file, and PEFT's layer."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.lora.reference import Array, Factors
from phi3_lora_qa.record import Outcome

if TYPE_CHECKING:
    import torch

    from phi3_lora_qa.gate.context import Bench


def to_float64(tensor: "torch.Tensor") -> Array:
    """Return a tensor's values as float64 numpy, exactly."""
    import torch

    return np.asarray(tensor.detach().to(device="cpu", dtype=torch.float64).numpy())


@dataclass(frozen=True)
class LoraLinear:
    """One adapted linear module.

    Attributes:
        name: The module's path in the base, such as ``model.layers.0.mlp.down_proj``.
        factors: Its LoRA from the adapter's file, float64.
        layer: PEFT's layer in the attached model.
        adapter: The adapter's name there.
    """

    name: str
    factors: Factors
    layer: Any
    adapter: str

    @property
    def inputs(self) -> int:
        """The length of an input."""
        return int(self.factors.A.shape[1])

    @cached_property
    def dtype(self) -> str:
        """What PEFT computes this module's update in, such as ``float32``."""
        names = {str(t.dtype) for t in (self._weight, self.layer.lora_A[self.adapter].weight)}
        order = ("torch.bfloat16", "torch.float16", "torch.float32", "torch.float64")
        return min(names, key=order.index).removeprefix("torch.")

    @property
    def _weight(self) -> "torch.Tensor":
        weight: torch.Tensor = self.layer.get_base_layer().weight
        return weight

    def base_weight(self) -> Array:
        """The base's W, float64 (out, in)."""
        return to_float64(self._weight)

    def base_norm(self) -> float:
        """The spectral norm of W, to about a percent, by power iteration from a fixed start."""
        import torch

        weight = self._weight.detach().to(torch.float32)
        x = torch.ones(weight.shape[1]) / weight.shape[1] ** 0.5
        for _ in range(20):
            x = weight.T @ (weight @ x)
            x = x / x.norm().clamp_min(1e-30)
        return float((weight @ x).norm())

    def peft_delta(self, factor: float = 1.0) -> Array:
        """PEFT's delta at ``factor`` times the adapter's scaling, float64 (out, in)."""
        self.layer.set_scale(self.adapter, factor)
        try:
            return to_float64(self.layer.get_delta_weight(self.adapter))
        finally:
            self.layer.set_scale(self.adapter, 1.0)

    def representable(self, x: Array) -> Array:
        """Round an input to what the layer's dtype can hold, as float64."""
        import torch

        return to_float64(torch.from_numpy(x).to(self._weight.dtype))

    def forward(self, x: Array) -> Array:
        """PEFT's output for one input (in,), float64 (out,)."""
        import torch

        with torch.inference_mode():
            return to_float64(self.layer(torch.from_numpy(x).to(self._weight.dtype)[None])[0])


def lora_linears(bench: "Bench") -> list[LoraLinear]:
    """Return every adapted linear module, by name, paired with its factors on file.

    Raises:
        AdapterError: The file has factors for a module that PEFT does not adapt.
        CheckFailedError: There is no linear module at all; the check then has not been run.
    """
    tuned = bench.tuned
    from peft.tuners.lora.layer import Linear

    found = {
        name.removeprefix("base_model.model."): module
        for name, module in tuned.named_modules()
        if isinstance(module, Linear)
    }
    if missing := sorted(bench.factors.keys() - found.keys()):
        raise AdapterError(
            f"the file has factors for {missing[0]}, which PEFT does not adapt; "
            "name it in target_modules, or train again without it"
        )
    if not bench.factors:
        raise CheckFailedError(
            "the adapter has no linear module that could be checked",
            "adapt linear modules (qkv_proj, o_proj, gate_up_proj, down_proj)",
            outcome=Outcome.NOT_RUN,
        )
    return [
        LoraLinear(name, factors, found[name], tuned.active_adapter)
        for name, factors in sorted(bench.factors.items())
    ]
