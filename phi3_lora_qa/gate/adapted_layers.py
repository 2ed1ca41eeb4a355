"""The adapted modules, each with its factors from the file and its PEFT layer."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.lora import Array, Factors
from phi3_lora_qa.models.tensor_conversion import to_float64

if TYPE_CHECKING:
    import torch

_LAYERS = "peft.tuners.lora.layer"

Rows = NDArray[np.int64]
"""Indices of rows."""


@dataclass(frozen=True)
class LoraLayer:
    """One adapted module as a linear layer with a weight (out, in).

    An embedding is the linear layer whose weight is its transposed table, (dim, rows), and whose
    inputs are one-hot: a token id selects a column.

    Attributes:
        name: The module's path in the base, such as ``model.layers.0.mlp.down_proj``.
        factors: Its LoRA factors from the adapter's file, float64.
        layer: PEFT's layer in the attached model.
        adapter: The adapter's name in that model.
    """

    name: str
    factors: Factors
    layer: Any
    adapter: str

    @cached_property
    def is_embedding(self) -> bool:
        """Whether the module takes token ids instead of vectors."""
        return self.adapter in self.layer.lora_embedding_A

    @cached_property
    def dtype(self) -> str:
        """The dtype in which PEFT computes this module's update, such as ``float32``."""
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
        """Return the base's W or some of its rows, float64 (out, in)."""
        return self._as_linear(self._weight, rows)

    def base_norm(self) -> float:
        """Return a lower bound on the spectral norm of W, by three steps of bidiagonalisation.

        Each product reads all of W. Five products are as accurate as nine of power iteration
        (Golub and Kahan 1965; Golub and Van Loan, Matrix Computations, section 10.4).
        """
        import torch

        weight = self._weight.detach().to(torch.float32)
        right, left = weight.new_ones(weight.shape[1]), weight.new_zeros(len(weight))
        right /= weight.shape[1] ** 0.5
        small, beta = weight.new_zeros(3, 3), weight.new_zeros(())
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
        """Return PEFT's delta at ``factor`` times the scaling: float64 (out, in), or some rows."""
        self.layer.set_scale(self.adapter, factor)
        try:
            return self._delta(rows)
        finally:
            self.layer.set_scale(self.adapter, 1.0)

    def _delta(self, rows: Rows | None) -> Array:
        block_diagonal = part_of("peft", "peft.tuners.lora.variants", "BdLoraLinearVariant")
        known = [part_of("peft", _LAYERS, name) for name in ("Linear", "Embedding")]
        if isinstance(variant := self.layer.lora_variant.get(self.adapter), block_diagonal):
            # get_delta_weight does not support these blocks; merging into zeros gives the delta.
            zeros = self._weight.new_zeros(self._weight.shape)
            return self._as_linear(variant.merge_safe(self.layer, self.adapter, zeros), rows)
        if rows is None or type(self.layer) not in known:
            return self._as_linear(self.layer.get_delta_weight(self.adapter), rows)
        with self._only(rows):
            return self._as_linear(self.layer.get_delta_weight(self.adapter))

    @contextmanager
    def _only(self, rows: Rows) -> Iterator[None]:
        """Temporarily reduce the layer's B to some rows; the same rows of delta need no others.

        The full delta is as large as the base's weight.
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
        """Return the weight after PEFT merged a copy of the layer, float64 (out, in)."""
        merged = copy.deepcopy(self.layer)
        merged.merge(safe_merge=True)
        return self._as_linear(merged.get_base_layer().weight)

    def draw_input(self, seed: int, size: float) -> Array:
        """Return an input (in,), exact in the layer's dtype: normal numbers, or a one-hot token."""
        import torch

        generator, inputs = np.random.default_rng(seed), int(self.factors.A.shape[1])
        if self.is_embedding:
            return np.eye(1, inputs, int(generator.integers(inputs)))[0]
        x = torch.from_numpy(generator.standard_normal(inputs) * size)
        return to_float64(x.to(torch.float32).to(self._weight.dtype))

    def forward(self, x: Array) -> Array:
        """Return PEFT's output for one input (in,), float64 (out,)."""
        import torch

        value = (
            torch.tensor([int(x.argmax())])
            if self.is_embedding
            else torch.from_numpy(x).to(self._weight.dtype)[None]
        )
        with torch.inference_mode():
            return to_float64(self.layer(value.to(self._weight.device))[0])

    def _as_linear(self, weight: "torch.Tensor", rows: Rows | None = None) -> Array:
        linear = weight.T if self.is_embedding else weight
        return to_float64(linear if rows is None else linear[rows])


def lora_layers(tuned: Any, factors: Mapping[str, Factors]) -> list[LoraLayer]:
    """Return every adapted module of a tuned model, sorted by name.

    Args:
        tuned: The PEFT model with the adapter attached.
        factors: The adapter's factors from its file, by the module's path in the base.

    Raises:
        AdapterError: The file has factors for a module that PEFT does not adapt.
    """
    return [
        LoraLayer(name, factors[name], module, tuned.active_adapter)
        for name, module in adapted_modules(tuned, factors).items()
    ]


def adapted_modules(tuned: Any, factors: Mapping[str, Factors]) -> Mapping[str, Any]:
    """Return PEFT's layers for the modules for which the file has factors, sorted by name.

    Raises:
        AdapterError: The file has factors for a module that PEFT does not adapt.
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
            "add it to target_modules, or train again without it"
        )
    return {name: found[name] for name in sorted(factors)}
