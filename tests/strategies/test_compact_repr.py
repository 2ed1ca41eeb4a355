"""Drawn values have a short repr that can be copied from a failure report."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.strategies.compact_repr import CompactRepr, compact_repr


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Pair(CompactRepr):
    name: str
    values: NDArray[np.float64]
    inner: "Pair | None" = None


def test_a_small_value_has_a_repr_that_can_be_copied() -> None:
    inner = Pair(name="inner", values=np.array([[1.5, -2.0]]))
    text = repr(Pair(name="a", values=np.eye(2), inner=inner))
    copied = eval(text, {"Pair": Pair, "array": np.array})
    np.testing.assert_array_equal(copied.values, np.eye(2))
    np.testing.assert_array_equal(copied.inner.values, [[1.5, -2.0]])
    assert (copied.name, copied.inner.name, copied.inner.inner) == ("a", "inner", None)


def test_a_large_array_has_a_repr_with_shape_and_range() -> None:
    values = np.linspace(-1, 2, 100).reshape(10, 10)
    assert compact_repr(values) == "<array (10, 10) float64, -1 to 2>"
