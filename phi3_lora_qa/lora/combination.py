"""Combinations of several adapters: weighted sum, concatenation, truncated SVD, PEFT's mixtures.

``add_weighted_adapter`` of PEFT 0.21.2 (tuners/lora/model.py, utils/merge_utils.py) defines what
each combination means. Its results have scaling 1 because PEFT sets alpha to the new rank. With
use_rslora, which PEFT copies from the first adapter, the scaling becomes sqrt(r) instead of 1. That
is a bug in PEFT; the factors here have scaling 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array, Factors, delta, require_factors


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The best approximation of rank k, and the singular values that it leaves out.

    Attributes:
        factors: A with orthonormal rows, B scaled by the singular values, scaling 1.
        tail: The omitted singular values, float64, largest first. By Eckart and Young (Mirsky 1960)
            the error is tail[0] in the spectral norm and ‖tail‖_2 in the Frobenius norm, and no
            matrix of this rank is closer.

    Example:
        >>> import numpy as np
        >>> factorize(np.diag([3.0, 2.0, 1.0]), rank=2).tail.tolist()
        [1.0]
    """

    factors: Factors
    tail: Array


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How PEFT mixes tensors: with or without pruning, by sum or by sign election.

    Attributes:
        kind: "linear" sums the weighted tensors. "magnitude_prune" first sets all but the largest
            entries of each tensor to zero. "ties" prunes, then averages each entry over the tensors
            whose sign agrees with the majority (Yadav et al. 2023, arXiv 2306.01708, section 3).
            PEFT's dare_linear and dare_ties prune at random; at density 1 they equal "linear" and
            "ties".
        density: The share of entries kept: int(density · size) of them. Which of several equal
            magnitudes is kept is undefined. At 1 nothing is pruned.
        majority: "total" elects the sign of the sum, "frequency" the sign of most tensors; 0 counts
            as positive.

    Raises:
        InputError: The kind or the majority is unknown, or the density is negative.

    Example:
        >>> Mixture(kind="ties", density=0.5).majority
        'total'
    """

    kind: Literal["linear", "ties", "magnitude_prune"] = "linear"
    density: float = 1.0
    majority: Literal["total", "frequency"] = "total"

    def __post_init__(self) -> None:
        kinds, methods = ("linear", "ties", "magnitude_prune"), ("total", "frequency")
        if self.kind not in kinds or self.majority not in methods or not self.density >= 0:
            raise InputError(
                f"invalid mixture: kind {self.kind!r}, density {self.density}, majority "
                f"{self.majority!r}; use a kind from {', '.join(kinds)}, a density from 0 to 1, "
                f"and a majority from {', '.join(methods)}"
            )


def weighted_delta(parts: Sequence[Factors], weights: Sequence[float]) -> Array:
    """Return Σ w_i · delta_i, the delta that a weighted combination should have.

    Args:
        parts: The adapters' factors for one module, all with the same (out, in).
        weights: One weight w_i for each adapter.

    Returns:
        float64 (out, in).

    Raises:
        InputError: The number of weights differs from the number of adapters, the shapes differ, or
            an adapter has a DoRA magnitude or a bias.

    Example:
        >>> import numpy as np
        >>> one = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=2.0)
        >>> weighted_delta([one, one], [1.0, -0.5]).tolist()
        [[1.0, 1.0]]
    """
    _check(parts, weights)
    total: Array = np.sum([w * delta(f) for w, f in zip(weights, parts, strict=True)], axis=0)
    return total


def concatenate(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return the weighted sum as factors of rank Σ r_i (PEFT's "cat").

    A stacks the rows of w_i·s_i·A_i, B the columns of B_i.

    Args:
        parts: The adapters' factors for one module.
        weights: One weight w_i for each adapter.

    Returns:
        Factors with A (Σ r_i, in), B (out, Σ r_i) and scaling 1.

    Raises:
        InputError: As `weighted_delta`.

    Example:
        >>> import numpy as np
        >>> one = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=2.0)
        >>> concatenate([one, one], [1.0, -0.5]).A.tolist()
        [[2.0, 2.0], [-1.0, -1.0]]
    """
    _check(parts, weights)
    return Factors(
        A=np.concatenate([w * f.scaling * f.A for w, f in zip(weights, parts, strict=True)]),
        B=np.concatenate([f.B for f in parts], axis=1),
        scaling=1.0,
    )


def truncate(factors: Factors, rank: int) -> LowRank:
    """Return the best rank-k part of a delta without forming the delta.

    Applied to a concatenation, this is PEFT's "svd". With thin QR of both factors the SVD is that
    of a small core: delta = Q_b·(U·S·Vᵀ)·Q_aᵀ. As in PEFT, B = Q_b·U·S and A = Vᵀ·Q_aᵀ. Signs, and
    bases of equal singular values, are arbitrary.

    Args:
        factors: One module's factors.
        rank: k, the largest rank of the result.

    Returns:
        The truncated factors and the omitted singular values.

    Raises:
        InputError: The rank is negative, or the delta is not finite.

    Example:
        >>> import numpy as np
        >>> both = Factors(A=np.eye(2), B=np.diag([4.0, 1.0]), scaling=1.0)
        >>> truncate(both, rank=1).factors.rank
        1
    """
    _require_rank(rank)
    q_b, r_b = np.linalg.qr(factors.B)
    q_a, r_a = np.linalg.qr(factors.A.T)
    u, s, vt = np.linalg.svd(_finite(factors.scaling * (r_b @ r_a.T)))
    k = min(rank, len(s))
    kept = Factors(A=vt[:k] @ q_a.T, B=q_b @ (u[:, :k] * s[:k]), scaling=1.0)
    return LowRank(factors=kept, tail=s[k:])


def factorize(difference: Array, rank: int) -> LowRank:
    """Return the best rank-k factors of a dense matrix, such as a merged weight minus its base.

    Args:
        difference: float64 (out, in).
        rank: k, the largest rank of the result.

    Returns:
        The factors, with scaling 1, and the omitted singular values.

    Raises:
        InputError: The rank is negative, or the matrix is not finite.

    Example:
        >>> import numpy as np
        >>> factorize(np.ones((2, 3)), rank=1).factors.A.shape
        (1, 3)
    """
    _require_rank(rank)
    u, s, vt = np.linalg.svd(_finite(difference), full_matrices=False)
    kept = Factors(A=vt[:rank], B=u[:, :rank] * s[:rank], scaling=1.0)
    return LowRank(factors=kept, tail=s[rank:])


def mix_factors(parts: Sequence[Factors], weights: Sequence[float], mixture: Mixture) -> Factors:
    """Return PEFT's mixture of all A and, separately, of all B; this is not the sum of the deltas.

    Each A gets the weight sqrt(|w_i·s_i|) with the sign of w_i·s_i, each B gets sqrt(|w_i·s_i|).
    One adapter alone gives its own delta; two give the cross terms B_1·A_2 and B_2·A_1 as well.

    Args:
        parts: The adapters' factors for one module, all of the same rank.
        weights: One weight w_i for each adapter.
        mixture: How to mix.

    Returns:
        Factors with A (r, in), B (out, r) and scaling 1.

    Raises:
        InputError: The ranks differ, or as `weighted_delta`.

    Example:
        >>> import numpy as np
        >>> one = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=4.0)
        >>> mix_factors([one, one], [1.0, 1.0], Mixture()).A.tolist()
        [[4.0, 4.0]]
    """
    _check(parts, weights)
    if len({f.rank for f in parts}) > 1:
        ranks = ", ".join(str(f.rank) for f in parts)
        raise InputError(f"factors of different ranks cannot be added: {ranks}; use concatenate")
    shares = [w * f.scaling for w, f in zip(weights, parts, strict=True)]
    roots = [math.sqrt(abs(share)) for share in shares]
    signed = [math.copysign(root, share) for root, share in zip(roots, shares, strict=True)]
    return Factors(
        A=mix([f.A for f in parts], signed, mixture),
        B=mix([f.B for f in parts], roots, mixture),
        scaling=1.0,
    )


def mix(tensors: Sequence[Array], weights: Sequence[float], mixture: Mixture) -> Array:
    """Return PEFT's mixture of arrays of equal shape.

    Applied to factors, it is PEFT's "linear", "ties" or "magnitude_prune" (see `mix_factors`).
    Applied to deltas, it is the first step of "svd", "ties_svd" or "magnitude_prune_svd".

    Args:
        tensors: float64 arrays of equal shape.
        weights: One weight for each array.
        mixture: How to mix.

    Returns:
        float64, of the same shape.

    Example:
        >>> import numpy as np
        >>> tensors = [np.array([1.0, 2.0]), np.array([3.0, -1.0])]
        >>> mix(tensors, [1.0, 1.0], Mixture(kind="ties")).tolist()
        [2.0, 2.0]
    """
    kept = np.stack([pruned(t, mixture) for t in tensors])
    weighted = kept * np.reshape(weights, (-1,) + (1,) * (kept.ndim - 1))
    if mixture.kind != "ties":
        total: Array = np.sum(weighted, axis=0)
        return total
    chosen = majority(kept, mixture)
    average: Array = np.sum(weighted * chosen, axis=0) / np.maximum(chosen.sum(axis=0), 1)
    return average


def pruned(tensor: Array, mixture: Mixture) -> Array:
    """Return the tensor with all but its int(density · size) largest magnitudes set to zero."""
    if mixture.kind == "linear" or mixture.density >= 1:
        return tensor
    keep = int(mixture.density * tensor.size)
    order = np.argsort(-np.abs(tensor).ravel(), kind="stable")
    result = np.zeros(tensor.size)
    result[order[:keep]] = tensor.ravel()[order[:keep]]
    return result.reshape(tensor.shape)


def majority(stacked: Array, mixture: Mixture) -> Array:
    """Return 1.0 where an entry of (n, ...) has the majority sign, else 0.0 (also for zeros)."""
    votes = stacked if mixture.majority == "total" else np.sign(stacked)
    elected = np.where(votes.sum(axis=0) >= 0, 1.0, -1.0)
    agrees: Array = (np.sign(stacked) == elected).astype(np.float64)
    return agrees


def _finite(matrix: Array) -> Array:
    if not np.isfinite(matrix).all():
        raise InputError(
            "a matrix with NaN or infinite entries has no singular values; find their source, such "
            "as a damaged layer of the adapter or a product that overflows float64"
        )
    return matrix


def _require_rank(rank: int) -> None:
    if rank < 0:
        raise InputError(f"rank must be at least 0: got {rank}; pass 0 or a positive rank")


def _check(parts: Sequence[Factors], weights: Sequence[float]) -> None:
    if not parts or len(parts) != len(weights):
        raise InputError(
            f"adapters and weights differ in number: {len(parts)} and {len(weights)}; "
            "pass one weight for each adapter"
        )
    for factors in parts:
        require_factors(factors)
    if len({(f.B.shape[0], f.A.shape[1]) for f in parts}) > 1:
        shapes = ", ".join(str((f.B.shape[0], f.A.shape[1])) for f in parts)
        raise InputError(
            f"the adapters belong to modules of different sizes: {shapes}; "
            "pass factors of the same module"
        )
    if any(f.magnitude is not None or f.bias is not None for f in parts):
        raise InputError(
            "cannot combine adapters with a DoRA magnitude or lora_bias: these are not part of the "
            "delta; merge each adapter into the base instead"
        )
