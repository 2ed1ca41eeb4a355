"""LoRA factor pairs, from plain ones to those on which implementations break."""

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
_OVERFLOW = {"float32": 128, "bfloat16": 128, "float16": 16}
"""The e of the first power of two that a dtype no longer holds."""
_HALVINGS = {"float32": 20, "bfloat16": 20, "float16": 10}
"""Over how many powers of two ill-conditioned factors spread, each of A and B."""


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

    B·A, s·B·A and their products with inputs of entries up to 8 stay finite in ``dtype``.

    Args:
        draw: Given by hypothesis.
        out: Rows of B; drawn up to 32 when None.
        inside: Columns of A; drawn up to 32 when None.
        rank: r; drawn up to 8 when None.
        dtype: Which values A, B, magnitude and bias may hold; scaling is any float64.
        kinds: What may be drawn, simplest first: ordinary; fresh (B = 0, as training starts);
            zero_a (A = 0: MiCA and embeddings start so); degenerate (rank below r, by repeated
            or zero rows of A); ill_conditioned (singular values over many decades); tiny (B·A
            near the smallest normal number); denormal (A or B below it); huge (B·A near the
            largest number).
        magnitude: Whether there is a DoRA magnitude, positive; None for either.
        bias: Whether lora_B has a bias; None for either.
        rslora: Whether s = alpha / sqrt(r); None for either.
        scaling: s itself, in place of a drawn alpha.
    """
    require_known("dtype", dtype, DTYPES)
    kind = draw(sample_names("kind", kinds, FACTOR_KINDS))
    out_features = draw(st.integers(1, 32)) if out_features is None else out_features
    in_features = draw(st.integers(1, 32)) if in_features is None else in_features
    rank = draw(ranks(out_features, in_features)) if rank is None else rank
    if scaling is None:
        root = draw(st.booleans()) if rslora is None else rslora
        scaling = scaling_of(draw(alphas()), rank, rslora=root)
    with_magnitude = draw(st.booleans()) if magnitude is None else magnitude
    with_bias = draw(st.booleans()) if bias is None else bias
    A = _nonzero(draw(arrays((rank, in_features), dtype=dtype, fills=NONZERO_FILLS)))
    B = _nonzero(draw(arrays((out_features, rank), dtype=dtype, fills=NONZERO_FILLS)))
    A, B = _as_kind(draw, kind, A, B, dtype)
    max_exponent = _largest_exponent(dtype, in_features, with_magnitude)
    A, B = _scaled_below(A, B, scaling, max_exponent, grow=kind == "huge")
    return Factors(
        A=rounded(A, dtype),
        B=rounded(B, dtype),
        scaling=scaling,
        magnitude=_positive(draw(arrays((out_features,), dtype=dtype))) if with_magnitude else None,
        bias=draw(arrays((out_features,), dtype=dtype, fills=FILLS)) if with_bias else None,
    )


def _as_kind(  # noqa: PLR0911 - one for each kind
    draw: st.DrawFn, kind: FactorKind, A: Array, B: Array, dtype: str
) -> tuple[Array, Array]:
    """Turn ordinary factors into the kind."""
    if kind == "fresh":
        return A, np.zeros_like(B)
    if kind == "zero_a":
        return np.zeros_like(A), B
    if kind == "degenerate":
        return _without_last_row(A, repeated=len(A) > 1 and draw(st.booleans())), B
    if kind == "ill_conditioned":
        decay = 2.0 ** -np.rint(np.linspace(0, _HALVINGS[dtype], len(A)))
        # The diagonal keeps the rows of a constant A independent, or the rank would be 1.
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
    """The power of two that entries of s·|B|·|A| must stay below.

    A row of it meets ``inside`` entries of up to 8; one bit is left for the W·x that is added.
    DoRA squares a row in float32 at least, so there the square must fit as well.
    """
    max_exponent = _OVERFLOW[dtype] - _exponent(LARGEST_ENTRY * in_features) - 1
    return min(max_exponent, 56) if with_magnitude else max_exponent


def _scaled_below(
    A: Array, B: Array, scaling: float, max_exponent: int, *, grow: bool
) -> tuple[Array, Array]:
    """Scale B by a power of two so that s·|B|·|A| < 2^max_exponent; with ``grow``, A and B up to it."""
    if grow:
        A, B = _normalised(A), _normalised(B)
    size = float((np.abs(B) @ np.abs(A)).max()) * max(1.0, abs(scaling))
    spare = max_exponent - _exponent(size) if size > 0 else 0
    if grow:
        return A * 2.0 ** (spare // 2), B * 2.0 ** (spare - spare // 2)
    return A, B * 2.0 ** min(spare, 0)


def _exponent(value: float) -> int:
    """The e with 2^(e-1) <= value < 2^e."""
    return math.frexp(value)[1]


def _normalised(values: Array) -> Array:
    """Scale by a power of two so that the largest entry lies in [1, 2)."""
    largest = float(np.abs(values).max())
    return values * 2.0 ** (1 - _exponent(largest)) if largest > 0 else values


def _nonzero(values: Array) -> Array:
    """Return ones in place of zeros, which a few drawn integers may be: they are kinds apart."""
    return values if values.any() else np.ones_like(values)


def _positive(values: Array) -> Array:
    return np.where(values == 0, 1.0, np.abs(values))
