"""Strategies for LoRA factor pairs, from plain ones to those that break implementations."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from hypothesis import strategies as st

from phi3_lora_qa.lora import Array, Factors, format_of, scaling_of
from phi3_lora_qa.strategies.arrays import (
    DTYPES,
    FILLS,
    LARGEST_ENTRY,
    NONZERO_FILLS,
    alphas,
    arrays,
    ranks,
    require_known,
    rounded,
    sample_names,
)

FactorKind = Literal[
    "ordinary", "fresh", "zero_a", "degenerate", "ill_conditioned", "tiny", "denormal", "huge"
]

FACTOR_KINDS: tuple[FactorKind, ...] = (
    "ordinary",
    "fresh",
    "zero_a",
    "degenerate",
    "ill_conditioned",
    "tiny",
    "denormal",
    "huge",
)
"""The kinds of factors, simplest first.

ordinary; fresh (B = 0, as at the start of training); zero_a (A = 0, as MiCA and embeddings start);
degenerate (rank below r, by repeated or zero rows of A); ill_conditioned (singular values over many
decades); tiny (B·A near the smallest normal number); denormal (A or B below it); huge (B·A near the
largest number).
"""
_OVERFLOW = {"float32": 128, "bfloat16": 128, "float16": 16}
"""The e of the first power of two beyond a dtype's range."""
_HALVINGS = {"float32": 20, "bfloat16": 20, "float16": 10}
"""The powers of two over which ill-conditioned factors spread, for A and for B."""


@st.composite
def lora_factors(  # noqa: PLR0913 - every one is a user's choice, and by keyword only
    draw: st.DrawFn,
    *,
    out_features: int | None = None,
    in_features: int | None = None,
    rank: int | None = None,
    dtype: str = "float32",
    kinds: Sequence[FactorKind] = FACTOR_KINDS,
    magnitude: bool | None = False,
    bias: bool | None = False,
    rslora: bool | None = None,
    scaling: float | None = None,
) -> Factors:
    """Draw one module's `Factors`; simplest: A = B = [[1]], s = 1.

    B·A, s·B·A and their products with inputs up to 8 stay finite in ``dtype``.

    Args:
        draw: Supplied by hypothesis.
        out_features: Rows of B; drawn up to 32 if None.
        in_features: Columns of A; drawn up to 32 if None.
        rank: r; drawn up to 8 if None.
        dtype: The dtype in which A, B, magnitude and bias are exact; the scaling is any float64.
        kinds: The kinds to draw from, simplest first; see `FACTOR_KINDS`.
        magnitude: Whether there is a positive DoRA magnitude; None draws either.
        bias: Whether lora_B has a bias; None draws either.
        rslora: Whether s = alpha / sqrt(r); None draws either.
        scaling: s itself, instead of a drawn alpha.

    Returns:
        Factors with A (r, in), B (out, r), and magnitude and bias (out,) or None, all float64.

    Raises:
        InputError: A kind or the dtype is unknown.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(lora_factors(in_features=4, rank=2, kinds=["fresh"]))
        ... def test(factors):
        ...     assert factors.A.shape == (2, 4) and not factors.B.any()
        >>> test()
    """
    require_known("dtype", dtype, DTYPES)
    kind = draw(sample_names("kind", kinds, FACTOR_KINDS))
    out_features = draw(st.integers(1, 32)) if out_features is None else out_features
    in_features = draw(st.integers(1, 32)) if in_features is None else in_features
    rank = draw(ranks(out_features, in_features)) if rank is None else rank
    if scaling is None:
        root = _choose(draw, rslora)
        scaling = scaling_of(draw(alphas()), rank, rslora=root)
    with_magnitude, with_bias = _choose(draw, magnitude), _choose(draw, bias)
    A, B = _draw_pair(draw, kind, (out_features, rank, in_features), dtype)
    max_exponent = _largest_exponent(dtype, in_features, with_magnitude)
    A, B = _scaled_below(A, B, scaling, max_exponent, grow=kind == "huge")
    return Factors(
        A=rounded(A, dtype), B=rounded(B, dtype), scaling=scaling,
        magnitude=_positive(draw(arrays((out_features,), dtype=dtype))) if with_magnitude else None,
        bias=draw(arrays((out_features,), dtype=dtype, fills=FILLS)) if with_bias else None,
    )  # fmt: skip


def _choose(draw: st.DrawFn, choice: bool | None) -> bool:
    """Return the choice; draw it if it is None."""
    return draw(st.booleans()) if choice is None else choice


def _draw_pair(
    draw: st.DrawFn, kind: FactorKind, shape: tuple[int, int, int], dtype: str
) -> tuple[Array, Array]:
    """Draw A and B of a kind for a shape (out, r, in)."""
    out_features, rank, in_features = shape
    A = _nonzero(draw(arrays((rank, in_features), dtype=dtype, fills=NONZERO_FILLS)))
    B = _nonzero(draw(arrays((out_features, rank), dtype=dtype, fills=NONZERO_FILLS)))
    return _as_kind(draw, kind, A, B, dtype)


def _as_kind(  # noqa: PLR0911 - one for each kind
    draw: st.DrawFn, kind: FactorKind, A: Array, B: Array, dtype: str
) -> tuple[Array, Array]:
    """Turn ordinary factors into the given kind."""
    if kind == "fresh":
        return A, np.zeros_like(B)
    if kind == "zero_a":
        return np.zeros_like(A), B
    if kind == "degenerate":
        return _without_last_row(A, repeated=len(A) > 1 and draw(st.booleans())), B
    if kind == "ill_conditioned":
        decay = 2.0 ** -np.rint(np.linspace(0, _HALVINGS[dtype], len(A)))
        # The diagonal keeps the rows of a constant A independent; otherwise the rank would be 1.
        return (A + np.eye(*A.shape)) * decay[:, None], (B + np.eye(*B.shape)) * decay
    if kind == "tiny":
        shift = (-_exponent(2.0 ** format_of(dtype).min_exponent) - 3) // 2
        return _normalised(A) * 2.0**-shift, _normalised(B) * 2.0**-shift
    if kind == "denormal":
        below = 2.0 ** format_of(dtype).min_exponent / 2
        in_b = draw(st.booleans())
        return (A, _normalised(B) * below) if in_b else (_normalised(A) * below, B)
    return A, B


def _without_last_row(A: Array, *, repeated: bool) -> Array:
    lower = A.copy()
    lower[-1] = A[0] if repeated else 0.0
    return lower


def _largest_exponent(dtype: str, in_features: int, with_magnitude: bool) -> int:
    """Return the exponent of the power of two that entries of s·|B|·|A| must stay below.

    One row of it multiplies ``in_features`` entries of up to 8, and one bit is left for adding W·x.
    DoRA squares a row in at least float32, so with a magnitude the square must fit as well.
    """
    max_exponent = _OVERFLOW[dtype] - _exponent(LARGEST_ENTRY * in_features) - 1
    return min(max_exponent, 56) if with_magnitude else max_exponent


def _scaled_below(
    A: Array, B: Array, scaling: float, max_exponent: int, *, grow: bool
) -> tuple[Array, Array]:
    """Scale B by a power of two so that s·|B|·|A| < 2^max_exponent.

    With ``grow``, scale A and B up to that limit.
    """
    if grow:
        A, B = _normalised(A), _normalised(B)
    size = float((np.abs(B) @ np.abs(A)).max()) * max(1.0, abs(scaling))
    spare = max_exponent - _exponent(size) if size > 0 else 0
    if grow:
        return A * 2.0 ** (spare // 2), B * 2.0 ** (spare - spare // 2)
    return A, B * 2.0 ** min(spare, 0)


def _exponent(value: float) -> int:
    """Return the e with 2^(e-1) <= value < 2^e."""
    return math.frexp(value)[1]


def _normalised(values: Array) -> Array:
    """Scale by a power of two so that the largest magnitude is in [1, 2)."""
    largest = float(np.abs(values).max())
    return values * 2.0 ** (1 - _exponent(largest)) if largest > 0 else values


def _nonzero(values: Array) -> Array:
    """Return ones instead of all zeros, which drawn integers may be; zeros are other kinds."""
    return values if values.any() else np.ones_like(values)


def _positive(values: Array) -> Array:
    return np.where(values == 0, 1.0, np.abs(values))
