"""Strategies for shapes, ranks, alphas, and arrays whose values are exact in a given dtype.

Arrays are float64, as `phi3_lora_qa.lora` takes them. A numpy generator fills them from a drawn
seed, which is one choice for hypothesis, regardless of the size.
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
"""The largest magnitude of a fill, so that a sum of products stays finite in float16, too."""

_SEEDED: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "integers": lambda rng, shape: rng.integers(-3, 4, shape).astype(np.float64),
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "wide": lambda rng, shape: rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 1, shape),
}


def require_known(what: str, name: str, known: Sequence[str]) -> None:
    """Raise InputError for a name that is not one of the known names."""
    if name not in known:
        raise InputError(f"strategies: unknown {what}: {name!r}; use one of {', '.join(known)}")


def sample_names(what: str, names: Sequence[Name], known: Sequence[str]) -> st.SearchStrategy[Name]:
    """Draw one of the names, simplest first.

    Raises:
        InputError: A name is unknown, or ``names`` is not a list of names.
    """
    if not names or isinstance(names, str):
        raise InputError(
            f"strategies: not a list of {what}s: {names!r}; pass a list such as [{known[0]!r}]"
        )
    for name in names:
        require_known(what, name, known)
    return st.sampled_from(names)


def dtypes() -> st.SearchStrategy[str]:
    """Draw the name of a dtype in which adapters are stored; simplest: float32.

    Returns:
        A strategy for "float32", "bfloat16" or "float16".

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(dtypes())
        ... def test(dtype):
        ...     assert dtype in DTYPES
        >>> test()
    """
    return st.sampled_from(DTYPES)


def shapes(*, max_side: int = 32) -> st.SearchStrategy[tuple[int, int]]:
    """Draw the shape (out, in) of a weight; simplest: (1, 1).

    Args:
        max_side: The largest out and in.

    Returns:
        A strategy for pairs of sides.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(shapes(max_side=8))
        ... def test(shape):
        ...     assert max(shape) <= 8
        >>> test()
    """
    return st.tuples(st.integers(1, max_side), st.integers(1, max_side))


def ranks(out_features: int, in_features: int, *, max_rank: int = 8) -> st.SearchStrategy[int]:
    """Draw a rank r that a weight of this shape can reach; simplest: 1.

    Args:
        out_features: Rows of the weight.
        in_features: Columns of the weight.
        max_rank: The largest rank.

    Returns:
        A strategy for ranks from 1.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(ranks(3, 64))
        ... def test(rank):
        ...     assert 1 <= rank <= 3
        >>> test()
    """
    return st.integers(1, min(out_features, in_features, max_rank))


def alphas(
    *, largest: int = 64, zero: bool = False, negative: bool = False
) -> st.SearchStrategy[float]:
    """Draw lora_alpha: positive integers and fractions; simplest: 1.

    Args:
        largest: The largest magnitude.
        zero: Whether it may be 0, which disables the adapter.
        negative: Whether it may be negative, which subtracts the adapter.

    Returns:
        A strategy for alphas.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(alphas(largest=16))
        ... def test(alpha):
        ...     assert 0 < alpha <= 16
        >>> test()
    """
    whole: st.SearchStrategy[float] = st.integers(1, largest)
    if zero:
        # The number after the largest becomes 0; as a separate choice 0 would be simpler than 1.
        whole = st.integers(1, largest + 1).map(lambda alpha: alpha % (largest + 1))
    fraction = st.floats(0.0625, largest, width=32)
    drawn = whole | fraction
    return drawn | drawn.map(lambda alpha: -alpha) if negative else drawn


def rounded(values: Array, dtype: str) -> Array:
    """Round values to the nearest numbers of ``dtype``, ties to even.

    Args:
        values: float64, of any shape.
        dtype: One of `DTYPES`.

    Returns:
        float64, of the same shape.

    Raises:
        InputError: The dtype is not one of `DTYPES`.

    Example:
        >>> import numpy as np
        >>> rounded(np.array([1.001]), "bfloat16").tolist()
        [1.0]
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
    """Draw a float64 array of values that are exact in ``dtype``; simplest: the first fill.

    Args:
        draw: Supplied by hypothesis.
        shape: The array's shape.
        dtype: The dtype in which every value is exact.
        fills: How to fill it, simplest first: ones, zeros, integers (-3 to 3), normal (standard),
            wide (normal times powers of two from 2⁻¹² to 1). No entry exceeds 8 in magnitude.

    Returns:
        float64, of this shape.

    Raises:
        InputError: A fill or the dtype is unknown.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(arrays((2, 3), dtype="float16"))
        ... def test(values):
        ...     assert values.shape == (2, 3) and abs(values).max() <= 8
        >>> test()
    """
    fill = draw(sample_names("fill", fills, FILLS))
    if fill == "ones":
        return np.ones(shape)
    if fill == "zeros":
        return np.zeros(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.clip(_SEEDED[fill](rng, shape), -LARGEST_ENTRY, LARGEST_ENTRY)
    return rounded(values, dtype)
