"""The definition of a property: a statement about a LoRA layer that is checked on drawn cases.

A property compares the values that a layer computes with the reference, elementwise, and allows
rounding errors only; the bounds come from `phi3_lora_qa.lora`.
"""

from collections.abc import Callable, Iterator, Mapping
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
    """The difference between two arrays that should agree, and its bound.

    Attributes:
        what: The compared quantity, as a noun phrase; or a statement that should be true.
        error: |found - expected|, float64 of any shape.
        bound: The largest error that rounding explains, of the same shape or broadcast to it.
        is_statement: Whether ``what`` is a statement; its error is then 1 if it is false.

    Example:
        >>> import numpy as np
        >>> error, bound = np.array([4.0, 1.0]), np.array([16.0, 2.0])
        >>> Comparison(what="the delta", error=error, bound=bound).worst
        (0.5, 1.0, 2.0)
    """

    what: str
    error: Array
    bound: Array
    is_statement: bool = False

    @property
    def difference(self) -> str:
        """The difference as text, for the message of a failed property."""
        _, error, bound = self.worst
        if self.is_statement:
            return f"not true: {self.what}"
        allowed = f"only {bound:.3g}" if bound else "no error"
        return f"{self.what} is off by {error:.3g}, but rounding allows {allowed}"

    @property
    def worst(self) -> tuple[float, float, float]:
        """The largest error / bound, with that error and bound; zeros for empty arrays."""
        error, bound = np.broadcast_arrays(self.error, self.bound)
        if not error.size:
            return 0.0, 0.0, 0.0
        shares = ratios(error, bound)
        at = int(np.argmax(shares))
        return float(shares.flat[at]), float(error.flat[at]), float(bound.flat[at])


def compare(what: str, found: Array, expected: Array, bound: Array | float = 0.0) -> Comparison:
    """Compare two arrays; without a bound they must be equal, apart from the sign of zero."""
    with np.errstate(invalid="ignore"):
        error = np.abs(found - expected)
    error = np.where((found == expected) | (np.isnan(found) & np.isnan(expected)), 0.0, error)
    return Comparison(what=what, error=error, bound=np.asarray(bound, dtype=np.float64))


def check_statement(what: str, is_true: bool) -> Comparison:
    """Return a statement without numbers as a comparison: error 1 if it is false, bound 0."""
    error = np.array(0.0 if is_true else 1.0)
    return Comparison(what=what, error=error, bound=np.array(0.0), is_statement=True)


class UnderTest(Protocol):
    """The subject of a property: a `Layer`, or a whole model with adapters."""

    known_failures: ClassVar[Mapping[str, str]]

    @classmethod
    def cases(cls) -> "st.SearchStrategy[Any]":
        """Return the strategy for the cases from which it is built."""


Check = Callable[[Any, Any, Draw], Iterator[Comparison]]


@dataclass(frozen=True, kw_only=True)
class Property:
    """One property of LoRA layers or models.

    Attributes:
        id: Its name in test ids.
        summary: The statement, one sentence.
        needs: The methods that a layer must define for the property to apply.
        check: Yields comparisons for one case; all of them must be within their bounds.
        of: The class of subjects; `Layer` by default.

    Example:
        >>> merging = {prop.id: prop for prop in all_properties()}["merge_cycles_do_not_drift"]
        >>> sorted(merging.needs)
        ['merge', 'unmerge', 'weight']
    """

    id: str
    summary: str
    needs: frozenset[str]
    check: Check
    of: type

    def applies(self, kind: type[UnderTest]) -> bool:
        """Return whether the property is about this kind, and the kind defines what it needs."""
        return issubclass(kind, self.of) and self.needs <= capabilities(kind)


def layer_property(*needs: str, of: type = Layer) -> Callable[[Check], Property]:
    """Turn a check function into a property of the layers (or of ``of``) that define ``needs``."""

    def define(check: Check) -> Property:
        return Property(
            id=check.__name__,
            summary=(check.__doc__ or "").partition("\n")[0],
            needs=frozenset(needs),
            check=check,
            of=of,
        )

    return define
