"""Phi-3's fused projections: q, k, v or gate, up adapters as one adapter, and back, exactly.

qkv_proj stacks the rows of q, k and v; gate_up_proj those of gate and up. The delta of the fused
module is therefore the stack of the parts' deltas. One pair of factors gives it without rounding:
A = [A_q; A_k; A_v] and a block-diagonal B, of rank r_q + r_k + r_v.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array, Factors, require_factors


@dataclass(frozen=True, kw_only=True)
class Block:
    """One part of a fused projection.

    Attributes:
        name: The part's name, such as "q_proj".
        rows: Its number of output rows.

    Example:
        >>> Block(name="q_proj", rows=96).rows
        96
    """

    name: str
    rows: int


Layout = tuple[Block, ...]
"""The parts of a fused projection, in the order of their rows."""


def qkv_layout(*, heads: int, kv_heads: int, head_dim: int) -> Layout:
    """Return the blocks of Phi-3's qkv_proj.

    With grouped-query attention k and v have fewer rows than q.

    Args:
        heads: num_attention_heads of the config.
        kv_heads: num_key_value_heads of the config.
        head_dim: Rows of one head.

    Returns:
        The blocks q_proj, k_proj and v_proj, in the order of their rows.

    Example:
        >>> [block.rows for block in qkv_layout(heads=4, kv_heads=2, head_dim=8)]
        [32, 16, 16]
    """
    return (
        Block(name="q_proj", rows=heads * head_dim),
        Block(name="k_proj", rows=kv_heads * head_dim),
        Block(name="v_proj", rows=kv_heads * head_dim),
    )


def gate_up_layout(*, intermediate: int) -> Layout:
    """Return the blocks of Phi-3's gate_up_proj.

    Args:
        intermediate: intermediate_size of the config.

    Returns:
        The blocks gate_proj and up_proj, in the order of their rows.

    Example:
        >>> [block.name for block in gate_up_layout(intermediate=64)]
        ['gate_proj', 'up_proj']
    """
    return (Block(name="gate_proj", rows=intermediate), Block(name="up_proj", rows=intermediate))


def row_slices(layout: Layout) -> dict[str, slice]:
    """Return the rows of the fused projection that belong to each part.

    Args:
        layout: The blocks of the fused projection.

    Returns:
        A slice of rows by the name of each part.

    Example:
        >>> row_slices(gate_up_layout(intermediate=64))["up_proj"]
        slice(64, 128, None)
    """
    ends = np.cumsum([block.rows for block in layout]).tolist()
    return {b.name: slice(end - b.rows, end) for b, end in zip(layout, ends, strict=True)}


def fuse(parts: Mapping[str, Factors], layout: Layout, *, rounded: bool = False) -> Factors:
    """Return the factors of the fused projection whose delta stacks the parts' deltas.

    The parts may differ in rank; a part without an adapter gets rows of zeros. Parts with the same
    A share it, so ``fuse(split(f, layout), layout)`` returns f itself.

    The scaling is that of the first part whose s is not zero. The s_i of another part is folded
    into its rows of B as s_i / s, which is exact where that ratio is a power of two (or zero).

    Args:
        parts: The parts' factors by the names in the layout.
        layout: The blocks of the fused projection.
        rounded: Also fold a ratio that is not a power of two, with the error that
            `phi3_lora_qa.lora.fuse_bound` states.

    Returns:
        Factors with A (Σ r_i, in) and B (out, Σ r_i), where out is the sum of the blocks' rows.

    Raises:
        InputError: A part is unknown or has the wrong shape, only some parts have DoRA, or the
            scalings cannot be joined exactly and ``rounded`` is not set.

    Example:
        >>> import numpy as np
        >>> up = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.5)
        >>> fuse({"up_proj": up}, gate_up_layout(intermediate=3)).B.ravel().tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    _check(parts, layout)
    present = {block.name: parts[block.name] for block in layout if block.name in parts}
    common = next((f.scaling for f in present.values() if f.scaling != 0), 0.0)
    sources: list[Array] = []
    columns: dict[str, slice] = {}
    for name, factors in present.items():
        columns[name] = _columns(sources, factors.A)
    out_features = sum(block.rows for block in layout)
    B = np.zeros((out_features, sum(len(a) for a in sources)))
    bias = np.zeros(out_features)
    rows = row_slices(layout)
    for name, factors in present.items():
        ratio = _ratio(name, factors, common, rounded=rounded)
        B[rows[name], columns[name]] = ratio * factors.B
        if factors.bias is not None:
            bias[rows[name]] = ratio * factors.bias
    return Factors(
        A=np.concatenate(sources),
        B=B,
        scaling=common,
        magnitude=_magnitude(present, layout),
        bias=bias if any(f.bias is not None for f in present.values()) else None,
    )


def split(fused: Factors, layout: Layout) -> dict[str, Factors]:
    """Return the factors of each part of a fused projection: all of A, and the part's rows of B.

    Nothing is rounded. `trim` drops the rows of A that a part does not use.

    Args:
        fused: The factors of the fused projection.
        layout: Its blocks.

    Returns:
        Factors by the name of each part; they share A.

    Raises:
        InputError: The number of rows of the layout differs from that of B.

    Example:
        >>> import numpy as np
        >>> both = Factors(A=np.ones((1, 2)), B=np.ones((6, 1)), scaling=0.5)
        >>> split(both, gate_up_layout(intermediate=3))["up_proj"].B.shape
        (3, 1)
    """
    rows = sum(block.rows for block in layout)
    if rows != fused.B.shape[0]:
        raise InputError(
            f"the layout does not fit B: {rows} rows instead of {fused.B.shape[0]}; "
            "take heads, kv_heads and sizes from the config of this base"
        )
    return {
        name: Factors(
            A=fused.A,
            B=fused.B[at],
            scaling=fused.scaling,
            magnitude=None if fused.magnitude is None else fused.magnitude[at],
            bias=None if fused.bias is None else fused.bias[at],
        )
        for name, at in row_slices(layout).items()
    }


def trim(factors: Factors) -> Factors:
    """Drop the rank-one terms whose column of B is zero; the delta stays the same.

    Args:
        factors: One module's factors.

    Returns:
        Factors of the same or a smaller rank.

    Example:
        >>> import numpy as np
        >>> trim(Factors(A=np.ones((2, 3)), B=np.array([[1.0, 0.0]]), scaling=1.0)).rank
        1
    """
    used = factors.B.any(axis=0)
    return Factors(
        A=factors.A[used],
        B=factors.B[:, used],
        scaling=factors.scaling,
        magnitude=factors.magnitude,
        bias=factors.bias,
    )


def _columns(sources: list[Array], a: Array) -> slice:
    """Return where the rows of ``a`` are in the stacked A; append them if they are new."""
    start = 0
    for known in sources:
        if np.array_equal(known, a):
            return slice(start, start + len(known))
        start += len(known)
    sources.append(a)
    return slice(start, start + len(a))


def _ratio(name: str, factors: Factors, common: float, *, rounded: bool) -> float:
    if factors.scaling == common:
        return 1.0
    ratio = factors.scaling / common
    is_power = abs(math.frexp(ratio)[0]) in (0.0, 0.5) and ratio * common == factors.scaling
    if is_power or rounded:
        return ratio
    raise InputError(
        f"the parts have scalings whose ratio is not a power of two: {factors.scaling!r} for "
        f"{name}, {common!r} for another part, so a fused B would have to be rounded; train them "
        "with the same alpha/r, or fuse in Python with phi3_lora_qa.lora.fuse(…, rounded=True)"
    )


def _magnitude(present: Mapping[str, Factors], layout: Layout) -> Array | None:
    magnitudes = [f.magnitude for f in present.values() if f.magnitude is not None]
    if not magnitudes:
        return None
    if len(magnitudes) < len(layout):
        raise InputError(
            f"only some parts have a DoRA magnitude: {len(magnitudes)} of {len(layout)}, and the "
            "other rows would need the norms of the base; pass a magnitude for every part"
        )
    return np.concatenate(magnitudes)


def _check(parts: Mapping[str, Factors], layout: Layout) -> None:
    names = [block.name for block in layout]
    if not parts or not parts.keys() <= set(names):
        raise InputError(
            f"parts must be some of {', '.join(names)}: got {', '.join(parts) or 'none'}; "
            "pass at least one of them"
        )
    for factors in parts.values():
        require_factors(factors)
    inputs = {f.A.shape[1] for f in parts.values()}
    if len(inputs) > 1:
        raise InputError(
            f"the parts have different numbers of input features: {sorted(inputs)}; "
            "pass parts of the same projection"
        )
    for block in layout:
        if block.name in parts and parts[block.name].B.shape[0] != block.rows:
            raise InputError(
                f"{block.name} does not fit the layout: {parts[block.name].B.shape[0]} rows of B "
                f"instead of {block.rows}; take heads, kv_heads and sizes from the base's config"
            )
