"""How the properties see a LoRA layer: as a linear map, whatever library it comes from.

Every kind of LoRA layer is one. An embedding maps one-hot vectors, so that a token picks a column.
A convolution maps the numbers below its kernel. Fused projections are linear layers whose B has
blocks of zeros. Seen so, one set of properties holds for all of them (docs/decisions/0005).
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
    """Gradients of sum(g · y) after one backward pass; None for what is frozen or has none.

    Attributes:
        A: float64 (r, in).
        B: float64 (out, r).
        magnitude: DoRA's, float64 (out,).
        bias: Of lora_B's own bias, float64 (out,).
        frozen: Names of parameters of the base that received a gradient; there must be none.
    """

    A: Array | None
    B: Array | None
    magnitude: Array | None = None
    bias: Array | None = None
    frozen: tuple[str, ...] = ()


class Layer(ABC):
    """One LoRA layer under test. Arrays are float64; what goes in, the layer's dtype holds exactly.

    A subclass says how to build the layer and how to use it. What it does not define is not asked
    of it: a property that needs, say, `merge` does not apply to a layer without.

    Attributes:
        known_failures: Properties that the library is known to break, by id, and why.
        unsupported: Abilities that a base class defines and this kind has not.
        accepts_any_input: Whether it maps every vector; an embedding maps one-hot ones only.
        forms: What the unmerged forward pass forms before it meets x: nothing ("factors": W·x +
            s·B·(A·x)), the "delta" (W·x + s·(B·A)·x) or the "weight" ((W + s·B·A)·x).
    """

    known_failures: ClassVar[Mapping[str, str]] = {}
    unsupported: ClassVar[frozenset[str]] = frozenset()
    accepts_any_input: ClassVar[bool] = True
    forward_form: ClassVar[Literal["factors", "delta", "weight"]] = "factors"

    @classmethod
    def cases(cls) -> "st.SearchStrategy[LayerCase]":
        """What to build it from; linear layers with ordinary and extreme factors in every dtype."""
        from phi3_lora_qa.strategies import linear_cases

        return linear_cases()

    @classmethod
    def arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """What the layer computes in, for the rounding that is allowed."""
        return arithmetic_of(case.dtype)

    @classmethod
    def batch_arithmetic(cls, case: "LayerCase") -> Arithmetic:
        """What the gradients of A and B are added up in over a batch's rows."""
        return cls.arithmetic(case)

    @classmethod
    def b_parameter_mask(cls, case: "LayerCase") -> Array:
        """Return 1.0 where an entry of B (out, r) is a parameter, 0.0 where it is always zero."""
        return np.ones_like(case.factors.B)

    @classmethod
    def additional_factors(
        cls, case: "LayerCase", *, rank: int | None = None, **choices: Any
    ) -> "st.SearchStrategy[Factors]":
        """What a further adapter beside the case's may hold; choices as in `lora_factors`."""
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
        """Build the layer with the case's weight and factors, in eval mode and not merged."""

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """Return the outputs (batch, out) for inputs (batch, in)."""

    @classmethod
    def build_initialized(cls, case: "LayerCase") -> Self:
        """Build the layer with the case's weight, and factors as the library initialises them."""
        raise NotImplementedError

    def factors(self) -> Factors:
        """Return the factors that the layer holds now."""
        raise NotImplementedError

    def weight(self) -> Array:
        """Return the base's weight as it lies in the layer now, (out, in)."""
        raise NotImplementedError

    def delta(self) -> Array:
        """Return s · B·A as the library computes it, (out, in)."""
        raise NotImplementedError

    def merge(self) -> None:
        """Add the delta to the weight."""
        raise NotImplementedError

    def unmerge(self) -> None:
        """Take the delta out again."""
        raise NotImplementedError

    def set_enabled(self, on: bool) -> None:
        """Switch the adapter off or on again."""
        raise NotImplementedError

    def set_scale(self, factor: float) -> None:
        """Make the scaling ``factor`` times what the config says."""
        raise NotImplementedError

    def gradients(self, x: Array, g: Array) -> Gradients:
        """Return the gradients of sum(g · forward(x)), in training mode without dropout."""
        raise NotImplementedError

    def trainable_base_parameters(self) -> tuple[str, ...]:
        """Return names of the base's parameters that would be trained; there must be none."""
        raise NotImplementedError

    @classmethod
    def build_with_dropout(cls, case: "LayerCase", rate: float) -> Self:
        """Build the layer as `build` does, with dropout on the adapter's input."""
        raise NotImplementedError

    def train(self) -> None:
        """Go into training mode, in which dropout acts."""
        raise NotImplementedError

    def eval(self) -> None:  # noqa: B027 - a layer without dropout has nothing to do
        """Go into eval mode, in which dropout does not act."""

    def save_and_load(self) -> "Layer":
        """Save the adapter as the library does, and load it onto the same base in a new layer."""
        raise NotImplementedError

    def output_dtype(self, x: Array, dtype: str) -> str:
        """Return the dtype of the output for inputs of ``dtype``."""
        raise NotImplementedError

    def add_adapter(self, name: str, factors: Factors) -> None:
        """Add a second adapter, not active."""
        raise NotImplementedError

    def set_active_adapters(self, *names: str) -> None:
        """Make these adapters the active ones; the first is called ``default``."""
        raise NotImplementedError

    def forward_mixed(self, x: Array, names: tuple[str, ...]) -> Array:
        """Return outputs where each row has an adapter of its own; ``__base__`` stands for none."""
        raise NotImplementedError

    def combine_adapters(
        self, names: tuple[str, ...], weights: tuple[float, ...], how: str
    ) -> Factors:
        """Combine adapters into a new one, and return its factors."""
        raise NotImplementedError


def capabilities(kind: type) -> frozenset[str]:
    """Return the names of what a kind of layer defines beyond `Layer`."""
    names = [name for name, value in vars(Layer).items() if _function(value)]
    own = (
        n for n in names if _function(getattr(kind, n, None)) is not _function(getattr(Layer, n))
    )
    return frozenset(own) - getattr(kind, "unsupported", frozenset())


def _function(found: Any) -> Any:
    """Return a method's function; None for what is no method."""
    found = getattr(found, "__func__", found)
    return found if callable(found) else None
