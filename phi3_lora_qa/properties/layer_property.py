"""What a property is: a statement about a LoRA layer that must hold for every case.

A property compares what a layer computes with what it must compute, elementwise, and allows what
rounding explains; the bounds come from `phi3_lora_qa.lora.weight_bounds`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from phi3_lora_qa.lora import Array, ratios
from phi3_lora_qa.properties.layer import Layer, capabilities

if TYPE_CHECKING:
    from hypothesis import strategies as st


class Draw(Protocol):
    """Draws from a strategy, as hypothesis's ``data.draw`` does."""

    def __call__(self, strategy: Any) -> Any:
        """Return one example."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Two arrays that must agree.

    Attributes:
        what: What is compared, to follow "error in".
        error: |found - expected|, float64 of any shape.
        bound: What rounding allows, of the same shape or broadcast to it.
    """

    what: str
    error: Array
    bound: Array

    @property
    def worst(self) -> tuple[float, float, float]:
        """The largest error / bound, and that error and bound."""
        error, bound = np.broadcast_arrays(self.error, self.bound)
        if not error.size:
            return 0.0, 0.0, 0.0
        found = ratios(error, bound)
        at = int(np.argmax(found))
        return float(found.flat[at]), float(error.flat[at]), float(bound.flat[at])


def compare(what: str, found: Array, expected: Array, bound: Array | float = 0.0) -> Comparison:
    """Compare two arrays; without a bound they must be equal, to the sign of zero excepted."""
    with np.errstate(invalid="ignore"):
        error = np.abs(found - expected)
    error = np.where((found == expected) | (np.isnan(found) & np.isnan(expected)), 0.0, error)
    return Comparison(what=what, error=error, bound=np.asarray(bound, dtype=np.float64))


def check_statement(what: str, truth: bool) -> Comparison:
    """Turn a statement without numbers into a comparison: an error of 1 where it is false."""
    return Comparison(what=what, error=np.array(0.0 if truth else 1.0), bound=np.array(0.0))


class UnderTest(Protocol):
    """What a property is run on: a `Layer`, or a whole model with adapters."""

    known_failures: ClassVar[Mapping[str, str]]

    @classmethod
    def cases(cls) -> "st.SearchStrategy[Any]":
        """What to build it from."""


Check = Callable[[Any, Any, Draw], Iterator[Comparison]]


@dataclass(frozen=True, kw_only=True)
class Property:
    """One property.

    Attributes:
        id: Its name, as in test ids.
        summary: What it says, one sentence.
        needs: What a layer must define for it to apply.
        check: Yields comparisons for one case, all of which must hold.
        of: The class of what it is about; `Layer` unless said otherwise.
    """

    id: str
    summary: str
    needs: frozenset[str]
    check: Check
    of: type

    def applies(self, kind: type[UnderTest]) -> bool:
        """Whether this is about such things, and the kind defines what it needs."""
        return issubclass(kind, self.of) and self.needs <= capabilities(kind)


_PROPERTIES: dict[str, Property] = {}


def layer_property(*needs: str, of: type = Layer) -> Callable[[Check], Check]:
    """Register a function as a property of layers (or what ``of`` says) that define ``needs``."""

    def register(check: Check) -> Check:
        name = check.__name__
        _PROPERTIES[name] = Property(
            id=name,
            summary=(check.__doc__ or "").partition("\n")[0],
            needs=frozenset(needs),
            check=check,
            of=of,
        )
        return check

    return register


def all_properties() -> Sequence[Property]:
    """Return every property, in the order in which they are written down."""
    from phi3_lora_qa.properties import (
        delta,
        forward,
        merging,
        multiple_adapters,
        training_step,
        whole_model,
    )

    # Importing them is what registers them.
    _ = (delta, forward, merging, training_step, multiple_adapters, whole_model)
    return tuple(_PROPERTIES.values())
