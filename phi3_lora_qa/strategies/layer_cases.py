"""Strategies for the cases of `phi3_lora_qa.strategies.case_types`, for each kind of layer."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from phi3_lora_qa.lora import Array, Factors, scaling_of
from phi3_lora_qa.strategies.arrays import DTYPES, alphas, arrays, ranks, sample_names, shapes
from phi3_lora_qa.strategies.case_types import (
    ConvCase,
    EmbeddingCase,
    LayerCase,
    MergedLinearCase,
)
from phi3_lora_qa.strategies.factor_pairs import FACTOR_KINDS, FactorKind, lora_factors

_BATCH = 4
"""The largest number of rows in a batch."""


@st.composite
def linear_cases(  # noqa: PLR0913 - every one is a user's choice, and by keyword only
    draw: st.DrawFn,
    *,
    dtypes: Sequence[str] = DTYPES,
    kinds: Sequence[FactorKind] = FACTOR_KINDS,
    magnitude: bool | None = False,
    bias: bool | None = False,
    rslora: bool | None = None,
    base_bias: bool | None = None,
    max_side: int = 32,
    max_rank: int = 8,
) -> LayerCase:
    """Draw a `LayerCase`; simplest: everything is 1 and of size 1, in float32, without options.

    Args:
        draw: Supplied by hypothesis.
        dtypes: The dtypes in which it may be stored, simplest first.
        kinds: Kinds of factors, as in `lora_factors`.
        magnitude: Whether it is DoRA; None draws either. No row of W + delta then vanishes.
        bias: Whether lora_B has a bias; None draws either. The base then has a bias, too, which
            peft requires for merging.
        rslora: Whether the scaling is alpha / sqrt(r); None draws either.
        base_bias: Whether the base has a bias; None draws either.
        max_side: The largest out and in.
        max_rank: The largest r.

    Returns:
        The case.

    Raises:
        InputError: A kind or a dtype is unknown.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(linear_cases(dtypes=["float32"], base_bias=False))
        ... def test(case):
        ...     assert case.dtype == "float32" and case.base_bias is None
        >>> test()
    """
    dtype = draw(sample_names("dtype", dtypes, DTYPES))
    out_features, in_features = draw(shapes(max_side=max_side))
    rank = draw(ranks(out_features, in_features, max_rank=max_rank))
    rslora = draw(st.booleans()) if rslora is None else rslora
    alpha = draw(alphas())
    factors = draw(
        lora_factors(
            out_features=out_features, in_features=in_features, rank=rank, dtype=dtype, kinds=kinds,
            magnitude=magnitude, bias=bias, scaling=scaling_of(alpha, rank, rslora=rslora),
        )
    )  # fmt: skip
    with_bias = draw(st.booleans()) if base_bias is None else base_bias
    with_bias = with_bias or factors.bias is not None
    weight = draw(arrays((out_features, in_features), dtype=dtype))
    return LayerCase(
        dtype=dtype,
        weight=weight if factors.magnitude is None else _keep_row_directions(weight, factors),
        base_bias=draw(arrays((out_features,), dtype=dtype)) if with_bias else None,
        factors=factors, alpha=alpha, rslora=rslora, x=draw(_batches(in_features, dtype)),
    )  # fmt: skip


@st.composite
def embedding_cases(
    draw: st.DrawFn,
    *,
    dtypes: Sequence[str] = DTYPES,
    kinds: Sequence[FactorKind] = FACTOR_KINDS,
    max_side: int = 32,
    max_rank: int = 8,
) -> EmbeddingCase:
    """Draw an `EmbeddingCase`.

    Embeddings start with A = 0 (kind zero_a), not with B = 0.

    Args:
        draw: Supplied by hypothesis.
        dtypes: The dtypes in which it may be stored, simplest first.
        kinds: Kinds of factors, as in `lora_factors`.
        max_side: The largest num and dim.
        max_rank: The largest r.

    Returns:
        The case.

    Raises:
        InputError: A kind or a dtype is unknown.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(embedding_cases(kinds=["zero_a"]))
        ... def test(case):
        ...     assert not case.A.any()
        >>> test()
    """
    dtype = draw(sample_names("dtype", dtypes, DTYPES))
    num, dim = draw(shapes(max_side=max_side))
    rank = draw(ranks(dim, num, max_rank=max_rank))
    rslora, alpha = draw(st.booleans()), draw(alphas())
    factors = draw(
        lora_factors(
            out_features=dim,
            in_features=num,
            rank=rank,
            dtype=dtype,
            kinds=kinds,
            scaling=scaling_of(alpha, rank, rslora=rslora),
        )
    )
    rows, tokens = draw(st.integers(1, _BATCH)), draw(st.integers(1, 8))
    ids = draw(st.lists(st.integers(0, num - 1), min_size=rows * tokens, max_size=rows * tokens))
    return EmbeddingCase(
        dtype=dtype,
        table=draw(arrays((num, dim), dtype=dtype)),
        A=factors.A,
        B=factors.B,
        alpha=alpha,
        rslora=rslora,
        ids=np.array(ids, dtype=np.int64).reshape(rows, tokens),
    )


@st.composite
def conv_cases(  # noqa: PLR0913 - every one is a user's choice, and by keyword only
    draw: st.DrawFn,
    *,
    dims: int = 2,
    groups: bool = False,
    dtypes: Sequence[str] = DTYPES,
    kinds: Sequence[FactorKind] = FACTOR_KINDS,
    max_channels: int = 8,
    max_kernel: int = 3,
    max_rank: int = 4,
) -> ConvCase:
    """Draw a `ConvCase`; simplest: one channel, kernel 1.

    Args:
        draw: Supplied by hypothesis.
        dims: 1, 2 or 3, for Conv1d, Conv2d, Conv3d.
        groups: Whether there may be 2 groups or more, which peft adapts but does not merge.
        dtypes: The dtypes in which it may be stored, simplest first.
        kinds: Kinds of factors, as in `lora_factors`, for A and B as matrices.
        max_channels: The largest in and out of each group.
        max_kernel: The largest side of the kernel.
        max_rank: The largest r of each group.

    Returns:
        The case.

    Raises:
        InputError: A kind or a dtype is unknown.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(conv_cases(dims=2, max_kernel=2))
        ... def test(case):
        ...     assert case.weight.ndim == 4
        >>> test()
    """
    dtype = draw(sample_names("dtype", dtypes, DTYPES))
    group = draw(st.integers(1, 3)) if groups else 1
    out_features, in_features = (side * group for side in draw(shapes(max_side=max_channels)))
    kernel = tuple(draw(st.integers(1, max_kernel)) for _ in range(dims))
    width = in_features * int(np.prod(kernel))
    rank = group * draw(ranks(out_features // group, width // group, max_rank=max_rank))
    rslora, alpha = draw(st.booleans()), draw(alphas())
    factors = draw(
        lora_factors(
            out_features=out_features, in_features=width, rank=rank, dtype=dtype, kinds=kinds,
            scaling=scaling_of(alpha, rank, rslora=rslora),
        )
    )  # fmt: skip
    space = tuple(side + draw(st.integers(0, 3)) for side in kernel)
    return ConvCase(
        weight=draw(arrays((out_features, in_features // group, *kernel), dtype=dtype)),
        base_bias=draw(arrays((out_features,), dtype=dtype)) if draw(st.booleans()) else None,
        dtype=dtype, A=factors.A.reshape(rank, in_features, *kernel),
        B=factors.B[:, : rank // group].reshape(out_features, rank // group, *(1,) * dims),
        alpha=alpha, rslora=rslora,
        groups=group, stride=draw(st.integers(1, 2)), padding=draw(st.integers(0, 1)),
        x=draw(arrays((draw(st.integers(1, _BATCH)), in_features, *space), dtype=dtype)),
    )  # fmt: skip


@st.composite
def merged_linear_cases(  # noqa: PLR0913 - every one is a user's choice, and by keyword only
    draw: st.DrawFn,
    *,
    dtypes: Sequence[str] = DTYPES,
    kinds: Sequence[FactorKind] = FACTOR_KINDS,
    max_side: int = 12,
    max_rank: int = 4,
    max_blocks: int = 4,
) -> MergedLinearCase:
    """Draw a `MergedLinearCase`; simplest: one block, enabled.

    Args:
        draw: Supplied by hypothesis.
        dtypes: The dtypes in which it may be stored, simplest first.
        kinds: Kinds of factors, as in `lora_factors`, drawn for each enabled block.
        max_side: The largest in, and out of each block.
        max_rank: The largest r.
        max_blocks: The largest n.

    Returns:
        The case.

    Raises:
        InputError: A kind or a dtype is unknown.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(merged_linear_cases(max_blocks=3))
        ... def test(case):
        ...     assert 1 <= sum(case.enable_lora) <= 3
        >>> test()
    """
    dtype = draw(sample_names("dtype", dtypes, DTYPES))
    enable_lora = draw(_masks(max_blocks))
    rows, in_features = draw(shapes(max_side=max_side))
    rank = draw(ranks(rows, in_features, max_rank=max_rank))
    alpha = draw(alphas())
    scaling = scaling_of(alpha, rank, rslora=False)
    block = lora_factors(
        out_features=rows,
        in_features=in_features,
        rank=rank,
        dtype=dtype,
        kinds=kinds,
        scaling=scaling,
    )
    blocks = [draw(block) for _ in range(sum(enable_lora))]
    out_features = rows * len(enable_lora)
    return MergedLinearCase(
        dtype=dtype,
        weight=draw(arrays((out_features, in_features), dtype=dtype)),
        base_bias=draw(arrays((out_features,), dtype=dtype)) if draw(st.booleans()) else None,
        enable_lora=enable_lora,
        rank=rank,
        A=np.vstack([factors.A for factors in blocks]),
        B=np.vstack([factors.B for factors in blocks]),
        alpha=alpha,
        x=draw(_batches(in_features, dtype)),
    )


def _batches(in_features: int, dtype: str) -> st.SearchStrategy[Array]:
    return st.integers(1, _BATCH).flatmap(lambda rows: arrays((rows, in_features), dtype=dtype))


def _masks(max_blocks: int) -> st.SearchStrategy[tuple[bool, ...]]:
    """Draw masks of enabled blocks: all blocks, then any mask with at least one."""
    all_enabled = st.integers(1, max_blocks).map(lambda blocks: (True,) * blocks)
    some = st.lists(st.booleans(), min_size=2, max_size=max_blocks).filter(any).map(tuple)
    return all_enabled | some if max_blocks > 1 else all_enabled


def _keep_row_directions(weight: Array, factors: Factors) -> Array:
    """Fix the rows in which W + delta is nearly zero: W becomes 1 there, or changes sign."""
    filled = np.where(np.any(weight != 0, axis=1, keepdims=True), weight, 1.0)
    delta = factors.scaling * (factors.B @ factors.A)
    total, base, update = (np.linalg.norm(rows, axis=1) for rows in (filled + delta, filled, delta))
    cancels = total < 0.25 * (base + update)
    fixed: Array = np.where(cancels[:, None], -filled, filled)
    return fixed
