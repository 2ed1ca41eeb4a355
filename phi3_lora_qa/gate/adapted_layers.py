"""The adapter's modules, each from both sides: its factors on file, and PEFT's layer."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.lora import Array, Factors
from phi3_lora_qa.models.tensor_conversion import to_float64
from phi3_lora_qa.record import Outcome

if TYPE_CHECKING:
    import torch

    from phi3_lora_qa.gate.bench import Bench


_LAYERS = "peft.tuners.lora.layer"

Rows = NDArray[np.int64]
"""Numbers of rows."""


@dataclass(frozen=True)
class LoraLayer:
    """One adapted module, seen as a linear layer with a weight (out, in).

    An embedding is the linear layer whose weight is its table transposed, (dim, rows), and whose
    inputs are one-hot: a token's id picks a column.

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

    @cached_property
    def is_embedding(self) -> bool:
        """Whether the module takes tokens rather than vectors."""
        return self.adapter in self.layer.lora_embedding_A

    @cached_property
    def dtype(self) -> str:
        """What PEFT computes this module's update in, such as ``float32``."""
        factor = (
            self.layer.lora_embedding_A[self.adapter]
            if self.is_embedding
            else self.layer.lora_A[self.adapter].weight
        )
        names = {str(t.dtype) for t in (self._weight, factor)}
        order = ("torch.bfloat16", "torch.float16", "torch.float32", "torch.float64")
        return min(names, key=order.index).removeprefix("torch.")

    @property
    def _weight(self) -> "torch.Tensor":
        weight: torch.Tensor = self.layer.get_base_layer().weight
        return weight

    def base_weight(self, rows: Rows | None = None) -> Array:
        """The base's W or some of its rows, float64 (out, in)."""
        return self._as_linear(self._weight, rows)

    def base_norm(self) -> float:
        """The spectral norm of W from below, by three steps of bidiagonalisation.

        Each product reads the whole of W, and five of them give what power iteration needs nine
        for (Golub and Kahan 1965; Golub and Van Loan, Matrix Computations, section 10.4).
        """
        import torch

        weight = self._weight.detach().to(torch.float32)
        right, left = torch.ones(weight.shape[1]) / weight.shape[1] ** 0.5, torch.zeros(len(weight))
        small, beta = torch.zeros(3, 3), torch.zeros(())
        for step in range(3):
            left = weight @ right - beta * left
            alpha = left.norm()
            small[step, step], left = alpha, left / alpha.clamp_min(1e-30)
            if step < 2:
                right = weight.T @ left - alpha * right
                beta = right.norm()
                small[step, step + 1], right = beta, right / beta.clamp_min(1e-30)
        return float(torch.linalg.matrix_norm(small, 2))

    def peft_delta(self, factor: float = 1.0, rows: Rows | None = None) -> Array:
        """PEFT's delta at ``factor`` times the adapter's scaling: float64 (out, in), or rows."""
        self.layer.set_scale(self.adapter, factor)
        try:
            return self._delta(rows)
        finally:
            self.layer.set_scale(self.adapter, 1.0)

    def _delta(self, rows: Rows | None) -> Array:
        stacked = part_of("peft", "peft.tuners.lora.variants", "BdLoraLinearVariant")
        plain = [part_of("peft", _LAYERS, name) for name in ("Linear", "Embedding")]
        if isinstance(variant := self.layer.lora_variant.get(self.adapter), stacked):
            # get_delta_weight does not know the stacked blocks; merging into zeros gives the delta.
            zeros = self._weight.new_zeros(self._weight.shape)
            return self._as_linear(variant.merge_safe(self.layer, self.adapter, zeros), rows)
        if rows is None or type(self.layer) not in plain:
            return self._as_linear(self.layer.get_delta_weight(self.adapter), rows)
        with self._only(rows):
            return self._as_linear(self.layer.get_delta_weight(self.adapter))

    @contextmanager
    def _only(self, rows: Rows) -> Iterator[None]:
        """Leave the layer some rows of B alone, which is all that those rows of delta depend on.

        A delta as large as the base's weight would be formed only to be thrown away.
        """
        layer, name = self.layer, self.adapter
        factor = layer.lora_embedding_B[name] if self.is_embedding else layer.lora_B[name].weight
        whole = factor.data
        factor.data = whole[rows]
        try:
            yield
        finally:
            factor.data = whole

    def peft_merged(self) -> Array:
        """The weight after PEFT merged a copy of the layer, float64 (out, in)."""
        twin = copy.deepcopy(self.layer)
        twin.merge(safe_merge=True)
        return self._as_linear(twin.get_base_layer().weight)

    def draw_input(self, seed: int, size: float) -> Array:
        """An input (in,) that the layer's dtype can hold: normal numbers, or a token's one-hot."""
        import torch

        generator, inputs = np.random.default_rng(seed), int(self.factors.A.shape[1])
        if self.is_embedding:
            return np.eye(1, inputs, int(generator.integers(inputs)))[0]
        x = torch.from_numpy(generator.standard_normal(inputs) * size)
        return to_float64(x.to(torch.float32).to(self._weight.dtype))

    def forward(self, x: Array) -> Array:
        """PEFT's output for one input (in,), float64 (out,)."""
        import torch

        given = (
            torch.tensor([int(x.argmax())])
            if self.is_embedding
            else torch.from_numpy(x).to(self._weight.dtype)[None]
        )
        with torch.inference_mode():
            return to_float64(self.layer(given)[0])

    def _as_linear(self, weight: "torch.Tensor", rows: Rows | None = None) -> Array:
        turned = weight.T if self.is_embedding else weight
        return to_float64(turned if rows is None else turned[rows])


def lora_layers(bench: "Bench") -> list[LoraLayer]:
    """Return every adapted module of the attached model, by name, with its factors on file.

    Raises:
        AdapterError: The file has factors for a module that PEFT does not adapt.
        CheckFailedError: No module is adapted at all; the check then has not been run.
    """
    tuned = bench.tuned
    return [
        LoraLayer(name, bench.factors[name], module, tuned.active_adapter)
        for name, module in adapted_modules(tuned, bench.factors).items()
    ]


def adapted_modules(tuned: Any, factors: Mapping[str, Factors]) -> Mapping[str, Any]:
    """Return PEFT's layers for the modules that the file has factors for, by name.

    Raises:
        AdapterError: The file has factors for a module that PEFT does not adapt.
        CheckFailedError: No module is adapted at all; the check then has not been run.
    """
    kinds = tuple(
        part_of("peft", _LAYERS, name) for name in ("Linear", "Embedding", "ParamWrapper")
    )
    found = {
        name.removeprefix("base_model.model."): module
        for name, module in tuned.named_modules()
        if isinstance(module, kinds)
    }
    if missing := sorted(factors.keys() - found.keys()):
        raise AdapterError(
            f"the file has factors for {missing[0]}, which PEFT does not adapt; "
            "name it in target_modules, or train again without it"
        )
    if not factors:
        raise CheckFailedError(
            "the adapter has no LoRA module that could be checked",
            "adapt linear modules (qkv_proj, o_proj, gate_up_proj, down_proj)",
            outcome=Outcome.NOT_RUN,
        )
    return {name: found[name] for name in sorted(factors)}
