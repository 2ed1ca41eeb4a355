"""How the properties see a LoRA layer: as a linear map, for any library.

Every kind of LoRA layer is one. An embedding maps one-hot vectors, so a token selects a column. A
convolution maps the values under its kernel. Fused projections are linear layers whose B has blocks
of zeros. One set of properties therefore covers all of them (docs/decisions/0005).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from phi3_lora_qa.lora import Arithmetic, Array, Factors, arithmetic_of

if TYPE_CHECKING:
    from hypothesis import strategies as st

    from phi3_lora_qa.strategies import LayerCase


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradients of sum(g · y) after one backward pass; None for a part that is frozen or absent.

    Attributes:
        A: float64 (r, in).
        B: float64 (out, r).
        magnitude: DoRA's, float64 (out,).
        bias: Of lora_B's own bias, float64 (out,).
        frozen: Names of base parameters that received a gradient; must be empty.

    Example:
        >>> Gradients(A=None, B=None).frozen
        ()
    """

    A: Array | None
    B: Array | None
    magnitude: Array | None = None
    bias: Array | None = None
    frozen: tuple[str, ...] = ()


class Layer(ABC):
    """One LoRA layer under test.

    Arrays are float64; the values of inputs and factors are exact in the layer's dtype.

    A subclass defines how to build and use the layer. Only `build` and `forward` are required: a
    property that needs another method, such as `merge`, does not apply to a layer that does not
    define it.

    Attributes:
        known_failures: The reason for each property that the library is known to fail, by id.
        unsupported: Methods that a base class defines and this kind does not support.
        accepts_any_input: Whether it maps every vector; an embedding maps only one-hot vectors.
        forward_form: What the unmerged forward pass computes before it multiplies by x: nothing
            ("factors": W·x + s·B·(A·x)), the "delta" (W·x + s·(B·A)·x) or the "weight"
            ((W + s·B·A)·x).

    Example:
        >>> class NumpyLayer(Layer):
        ...     unsupported = frozenset({"merge"})
        ...     @classmethod
        ...     def build(cls, case):
        ...         layer = cls()
        ...         layer.case = case
        ...         return layer
        ...     def forward(self, x):
        ...         return x @ (self.case.weight + self.delta()).T
        ...     def delta(self):
        ...         return self.case.factors.scaling * self.case.factors.B @ self.case.factors.A
        >>> deltas = [prop for prop in all_properties() if prop.needs == {"delta"}]
        >>> all(prop.applies(NumpyLayer) for prop in deltas)
        True
    """

    known_failures: ClassVar[Mapping[str, str]] = {}
    unsupported: ClassVar[frozenset[str]] = frozenset()
    accepts_any_input: ClassVar[bool] = True
    forward_form: ClassVar[Literal["factors", "delta", "weight"]] = "factors"

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """Return the strategy for its cases; by default linear layers of every kind and dtype."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases()

    @classmethod
    def arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """Return the arithmetic in which the layer computes; it determines the error bounds."""
        return arithmetic_of(case.dtype)

    @classmethod
    def batch_arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """Return the arithmetic in which the gradients of A and B are summed over the batch."""
        return cls.arithmetic(case)

    @classmethod
    def b_parameter_mask(cls, case: "LayerCase") -> Array:
        """Return 1.0 where an entry of B (out, r) is a parameter, 0.0 where it is always zero."""
        return np.ones_like(case.factors.B)

    @classmethod
    def additional_factors(
        cls, case: "LayerCase", *, rank: int | None = None, **choices: Any
    ) -> "st.SearchStrategy[Factors]":
        """Return the strategy for a second adapter; choices as in `lora_factors`."""
        from phi3_lora_qa.strategies import lora_factors

        out_features, in_features = case.weight.shape
        return lora_factors(
            out_features=out_features,
            in_features=in_features,
            rank=rank,
            dtype=case.dtype,
            **choices,
        )

    @classmethod
    @abstractmethod
    def build(cls, case: "LayerCase") -> Self:
        """Build the layer with the case's weight and factors, in eval mode and unmerged."""

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """Return the outputs (batch, out) for inputs (batch, in)."""

    @classmethod
    def build_initialized(cls, case: "LayerCase") -> Self:
        """Build the layer with the case's weight, and factors as the library initializes them."""
        raise NotImplementedError

    def factors(self) -> Factors:
        """Return the current factors."""
        raise NotImplementedError

    def weight(self) -> Array:
        """Return the current weight of the base, (out, in)."""
        raise NotImplementedError

    def delta(self) -> Array:
        """Return s · B·A as the library computes it, (out, in)."""
        raise NotImplementedError

    def merge(self) -> None:
        """Add the delta to the weight."""
        raise NotImplementedError

    def unmerge(self) -> None:
        """Subtract the delta from the weight."""
        raise NotImplementedError

    def set_enabled(self, enabled: bool) -> None:
        """Enable or disable the adapter."""
        raise NotImplementedError

    def set_scale(self, factor: float) -> None:
        """Set the scaling to ``factor`` times the value in the config."""
        raise NotImplementedError

    def gradients(self, x: Array, g: Array) -> Gradients:
        """Return the gradients of sum(g · forward(x)), in training mode without dropout."""
        raise NotImplementedError

    def trainable_base_parameters(self) -> tuple[str, ...]:
        """Return the names of base parameters that would be trained; must be empty."""
        raise NotImplementedError

    @classmethod
    def build_with_dropout(cls, case: "LayerCase", rate: float) -> Self:
        """Build the layer as `build` does, with dropout on the adapter's input."""
        raise NotImplementedError

    def train(self) -> None:
        """Switch to training mode, in which dropout is active."""
        raise NotImplementedError

    def eval(self) -> None:  # noqa: B027 - a layer without dropout has nothing to do
        """Switch to eval mode, in which dropout is inactive."""

    def save_and_load(self) -> "Layer":
        """Save the adapter as the library does, and load it onto the same base in a new layer."""
        raise NotImplementedError

    def output_dtype(self, x: Array, dtype: str) -> str:
        """Return the dtype of the output for inputs of ``dtype``."""
        raise NotImplementedError

    def add_adapter(self, name: str, factors: Factors) -> None:
        """Add a second adapter without activating it."""
        raise NotImplementedError

    def set_active_adapters(self, *names: str) -> None:
        """Activate exactly these adapters; the first adapter is called ``default``."""
        raise NotImplementedError

    def forward_mixed(self, x: Array, names: tuple[str, ...]) -> Array:
        """Return the outputs of a batch with one adapter name per row; ``__base__`` is none."""
        raise NotImplementedError

    def combine_adapters(
        self, names: tuple[str, ...], weights: tuple[float, ...], how: str
    ) -> Factors:
        """Combine adapters into a new one, and return its factors."""
        raise NotImplementedError


def capabilities(kind: type) -> frozenset[str]:
    """Return the names of the methods that a kind of layer defines beyond `Layer`."""
    names = [name for name, value in vars(Layer).items() if _function(value)]
    own = (
        n for n in names if _function(getattr(kind, n, None)) is not _function(getattr(Layer, n))
    )
    return frozenset(own) - getattr(kind, "unsupported", frozenset())


def _function(found: Any) -> Any:
    """Return the function of a method; None for anything that is not callable."""
    found = getattr(found, "__func__", found)
    return found if callable(found) else None
