"""Rounding-error bounds for combined and fused adapters.

The notation is that of `phi3_lora_qa.lora.weight_bounds`. A truncated SVD has no bound here: the
error that it makes by design, the tail, is far larger than its rounding error.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.lora.combination import Mixture, majority, pruned
from phi3_lora_qa.lora.factors import Array, Factors
from phi3_lora_qa.lora.float_formats import gamma, round_to
from phi3_lora_qa.lora.fused import Layout, fuse, row_slices
from phi3_lora_qa.lora.gradients import FactorArrays
from phi3_lora_qa.lora.interval_arithmetic import Approximation, Arithmetic, arithmetic_of, exact
from phi3_lora_qa.lora.weight_bounds import approximate_delta


def weighted_delta_bound(
    parts: Sequence[Factors], weights: Sequence[float], dtype: str | Arithmetic
) -> Array:
    """Bound the error of Σ w_i · delta_i from computed deltas, for any order of summation.

    Each delta as in `delta_bound`, times its weight, then gamma_{n-1} over the sum of magnitudes.

    Args:
        parts: The adapters' factors for one module.
        weights: One weight for each adapter.
        dtype: The dtype or `Arithmetic` of the computation.

    Returns:
        float64 (out, in); infinite where no bound exists.

    Example:
        >>> import numpy as np
        >>> from phi3_lora_qa.lora import Factors
        >>> one = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=3.0)
        >>> bool((weighted_delta_bound([one, one], [1.0, 0.5], "float32") < 1e-6).all())
        True
    """
    arithmetic = arithmetic_of(dtype)
    deltas = [approximate_delta(f, arithmetic) for f in parts]
    return arithmetic.total(
        [arithmetic.scale(d, w) for d, w in zip(deltas, weights, strict=True)]
    ).error


def concatenate_bound(
    parts: Sequence[Factors], weights: Sequence[float], dtype: str | Arithmetic
) -> Array:
    """Bound |delta of the stored concatenation - Σ w_i · delta_i|, multiplied out exactly.

    Only fl(fl(w_i·A_i)·s_i) rounds. The error is Σ |B_i| · e_i with e_i from two scalings.

    Args:
        parts: The adapters' factors for one module.
        weights: One weight for each adapter.
        dtype: The dtype or `Arithmetic` of the computation.

    Returns:
        float64 (out, in); infinite where no bound exists.

    Example:
        >>> import numpy as np
        >>> from phi3_lora_qa.lora import Factors
        >>> one = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=3.0)
        >>> concatenate_bound([one], [1.0], "float32").shape
        (1, 2)
    """
    arithmetic = arithmetic_of(dtype)
    total = np.zeros((parts[0].B.shape[0], parts[0].A.shape[1]))
    for factors, weight in zip(parts, weights, strict=True):
        stored = arithmetic.scale(arithmetic.scale(exact(factors.A), weight), factors.scaling)
        total = total + _abs_product(factors.B, stored.error)
        # The reference's own sum, in float64.
        ends = gamma(len(parts) + 1, "float64") + gamma(factors.rank, "float64")
        total = total + ends * (np.abs(factors.B) @ stored.max_abs)
    return total


def mix_bound(
    parts: Sequence[Factors], weights: Sequence[float], mixture: Mixture, dtype: str | Arithmetic
) -> FactorArrays:
    """Bound the error of A and B from `mix_factors` computed in ``dtype``.

    The weight sqrt(|w·s|) is itself rounded, within u. Each tensor is scaled, and n of them are
    summed: gamma_{n-1} over the sum of magnitudes. "ties" divides by a count, one more rounding.
    The bound is infinite where the sum that elects a sign is within its own rounding error of zero,
    and for entries of equal magnitude of which pruning keeps only some.

    Args:
        parts: The adapters' factors for one module, all of the same rank.
        weights: One weight for each adapter.
        mixture: How they are mixed.
        dtype: The dtype or `Arithmetic` of the computation.

    Returns:
        Bounds for A, float64 (r, in), and for B, float64 (out, r).

    Example:
        >>> import numpy as np
        >>> from phi3_lora_qa.lora import Factors
        >>> one = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=3.0)
        >>> mix_bound([one, one], [1.0, 0.5], Mixture(), "float32").A.shape
        (1, 2)
    """
    arithmetic = arithmetic_of(dtype)
    roots = [np.sqrt(abs(w * f.scaling)) for w, f in zip(weights, parts, strict=True)]
    return FactorArrays(
        A=_mix_error([f.A for f in parts], roots, mixture, arithmetic),
        B=_mix_error([f.B for f in parts], roots, mixture, arithmetic),
    )


def fuse_bound(parts: Mapping[str, Factors], layout: Layout, dtype: str) -> Array:
    """Bound |delta of the fused factors - the stacked deltas| with B stored in ``dtype``.

    The bound is 0 for a part whose s_i / s is a power of two (or zero). Otherwise the ratio and its
    product with B each round once in float64, and the result rounds once to ``dtype``:
    (gamma_2(float64) + u)·|s_i|·|B_i|·|A_i| and underflow.

    Args:
        parts: The parts' factors by the names in the layout.
        layout: The blocks of the fused projection.
        dtype: The dtype in which the fused B is stored.

    Returns:
        float64 (out, in).

    Example:
        >>> import numpy as np
        >>> from phi3_lora_qa.lora import Factors, gate_up_layout
        >>> up = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.5)
        >>> float(fuse_bound({"up_proj": up}, gate_up_layout(intermediate=3), "float32").max())
        0.0
    """
    rows = row_slices(layout)
    common = fuse(parts, layout, rounded=True).scaling
    inputs = next(iter(parts.values())).A.shape[1]
    bound = np.zeros((sum(block.rows for block in layout), inputs))
    for name, factors in parts.items():
        ratio = factors.scaling / common if common else 0.0
        if abs(np.frexp(ratio)[0]) == 0.5:
            # Scaling by a power of two is exact unless it leaves the dtype's range.
            folded = ratio * factors.B
            error = np.abs(round_to(folded, dtype) - folded)
        else:
            twice = gamma(2, "float64") * np.abs(ratio * factors.B)
            error = twice + Arithmetic(dtype=dtype).rounding(np.abs(ratio * factors.B) + twice)
        bound[rows[name]] = abs(common) * _abs_product(error, factors.A)
    return bound


@np.errstate(all="ignore")
def _mix_error(
    tensors: Sequence[Array], roots: Sequence[float], mixture: Mixture, arithmetic: Arithmetic
) -> Array:
    kept = np.stack([pruned(t, mixture) for t in tensors])
    chosen = majority(kept, mixture) if mixture.kind == "ties" else np.ones_like(kept)
    scaled = []
    for tensor, root, mask in zip(kept, roots, chosen, strict=True):
        # sqrt and the products w·s under it round the weight by less than 2·u of the accumulation.
        weight = Approximation(
            value=np.full_like(tensor, root),
            error=np.full_like(tensor, root * float(gamma(2, arithmetic.accumulate))),
        )
        scaled.append(arithmetic.times(exact(tensor * mask), weight))
    mixed = arithmetic.total(scaled)
    open_choice = np.any([_tied_entries(t, k) for t, k in zip(tensors, kept, strict=True)], axis=0)
    if mixture.kind == "ties":
        mixed = arithmetic.divide(mixed, exact(np.maximum(chosen.sum(axis=0), 1)))
        if mixture.majority == "total":
            votes = arithmetic.total([exact(tensor) for tensor in kept])
            open_choice |= (np.abs(votes.value) <= votes.error) & (kept != 0).any(axis=0)
    return np.where(open_choice, np.inf, mixed.error)


def _tied_entries(tensor: Array, kept: Array) -> NDArray[np.bool_]:
    """Return where pruning chose among equal magnitudes: a kept entry equals a pruned one."""
    lost = np.abs(tensor[tensor != kept])
    return np.isin(np.abs(tensor), lost) & np.isin(np.abs(tensor), np.abs(kept[kept != 0]))


@np.errstate(all="ignore")
def _abs_product(a: Array, b: Array) -> Array:
    product = np.abs(a) @ np.abs(b)
    return np.where(np.isnan(product), np.inf, product)
