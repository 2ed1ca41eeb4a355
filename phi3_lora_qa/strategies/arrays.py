"""Shapes, ranks, alphas and arrays whose values a given dtype holds exactly.

Arrays are float64, as `phi3_lora_qa.lora` takes them, filled by a numpy generator from a drawn
seed: one choice for hypothesis, whatever the size.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
from hypothesis import strategies as st

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Array, round_to

Fill = Literal["ones", "zeros", "integers", "normal", "wide"]
Name = TypeVar("Name", bound=str)

DTYPES = ("float32", "bfloat16", "float16")
FILLS: tuple[Fill, ...] = ("ones", "zeros", "integers", "normal", "wide")
NONZERO_FILLS: tuple[Fill, ...] = ("ones", "integers", "normal", "wide")
LARGEST_ENTRY = 8.0
"""No fill goes beyond it, so that a sum of products stays finite in float16 too."""

_SEEDED: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "integers": lambda rng, shape: rng.integers(-3, 4, shape).astype(np.float64),
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "wide": lambda rng, shape: rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 1, shape),
}


def require_known(what: str, name: str, known: Sequence[str]) -> None:
    """Raise InputError for a name that is none of the known ones."""
    if name not in known:
        raise InputError(f"strategies: no {what} {name!r}; use one of {', '.join(known)}")


def sample_names(what: str, names: Sequence[Name], known: Sequence[str]) -> st.SearchStrategy[Name]:
    """Draw one of the names, simplest first.

    Raises:
        InputError: One of them is not known, or what is given is no list of them.
    """
    if not names or isinstance(names, str):
        raise InputError(f"strategies: {names!r} is no list of {what}s, such as {known[0]!r}")
    for name in names:
        require_known(what, name, known)
    return st.sampled_from(names)


def dtypes() -> st.SearchStrategy[str]:
    """Draw the name of a dtype that adapters are stored in; simplest: float32."""
    return st.sampled_from(DTYPES)


def shapes(*, max_side: int = 32) -> st.SearchStrategy[tuple[int, int]]:
    """Draw the shape (out, in) of a weight; simplest: (1, 1)."""
    return st.tuples(st.integers(1, max_side), st.integers(1, max_side))


def ranks(out_features: int, in_features: int, *, max_rank: int = 8) -> st.SearchStrategy[int]:
    """Draw a rank r that a weight (out, inside) can use in full; simplest: 1."""
    return st.integers(1, min(out_features, in_features, max_rank))


def alphas(
    *, largest: int = 64, zero: bool = False, negative: bool = False
) -> st.SearchStrategy[float]:
    """Draw lora_alpha: positive whole numbers and fractions; simplest: 1.

    Args:
        largest: Bound of its size.
        zero: Whether it may be 0, which switches the adapter off.
        negative: Whether it may be negative, which subtracts the adapter.
    """
    whole: st.SearchStrategy[float] = st.integers(1, largest)
    if zero:
        # By way of the last whole number: a choice of its own would be simpler than 1.
        whole = st.integers(1, largest + 1).map(lambda alpha: alpha % (largest + 1))
    fraction = st.floats(0.0625, largest, width=32)
    drawn = whole | fraction
    return drawn | drawn.map(lambda alpha: -alpha) if negative else drawn


def rounded(values: Array, dtype: str) -> Array:
    """Return the values rounded to the nearest that ``dtype`` holds, ties to even, as float64.

    Raises:
        InputError: The dtype is not one of `DTYPES`.
    """
    require_known("dtype", dtype, DTYPES)
    return round_to(values, dtype)


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    *,
    dtype: str = "float32",
    fills: Sequence[Fill] = FILLS,
) -> Array:
    """Draw a float64 array of values that ``dtype`` holds exactly; simplest: the first fill.

    Args:
        draw: Given by hypothesis.
        shape: The array's shape.
        dtype: Which values it may hold.
        fills: What it may be filled with, simplest first: ones, zeros, integers (-3 to 3), normal
            (standard), wide (normal times powers of two from 2⁻¹² to 1). No entry exceeds 8.
    """
    fill = draw(sample_names("fill", fills, FILLS))
    if fill == "ones":
        return np.ones(shape)
    if fill == "zeros":
        return np.zeros(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.clip(_SEEDED[fill](rng, shape), -LARGEST_ENTRY, LARGEST_ENTRY)
    return rounded(values, dtype)
