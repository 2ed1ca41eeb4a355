"""Several adapters as one: the exact sum, its factors, its best rank-k part, and PEFT's mixtures.

``add_weighted_adapter`` of PEFT 0.21.2 (tuners/lora/model.py, utils/merge_utils.py) is the source
of what each combination means. Its results have scaling 1: PEFT sets alpha to the new rank. With
use_rslora, which it copies from the first adapter, that becomes sqrt(r) instead of 1, which is a
fault of PEFT and not of these factors.
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
    """The best approximation of rank k, and what it leaves out.

    Attributes:
        factors: A with orthonormal rows, B with the singular values, scaling 1.
        tail: The singular values left out, largest first. By Eckart and Young (Mirsky 1960) the
            error is tail[0] in the spectral norm and ‖tail‖_2 in the Frobenius norm, and no matrix
            of this rank is nearer.
    """

    factors: Factors
    tail: Array


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How PEFT mixes tensors: pruned or not, averaged by sign or summed.

    Attributes:
        kind: "linear" sums the weighted tensors. "magnitude_prune" first sets all but the largest
            entries of each to zero. "ties" prunes, then averages at each entry over the tensors
            whose sign is the majority's (Yadav et al. 2023, arXiv 2306.01708, section 3).
            dare_linear and dare_ties prune at random; at density 1 they are "linear" and "ties".
        density: The share of entries kept, int(density · size) of them; among equal magnitudes
            which is not defined. At 1 nothing is pruned.
        majority: "total" elects the sign of the sum, "frequency" that of most tensors; 0 counts as
            positive.
    """

    kind: Literal["linear", "ties", "magnitude_prune"] = "linear"
    density: float = 1.0
    majority: Literal["total", "frequency"] = "total"

    def __post_init__(self) -> None:
        kinds, ways = ("linear", "ties", "magnitude_prune"), ("total", "frequency")
        if self.kind not in kinds or self.majority not in ways or not self.density >= 0:
            raise InputError(
                f"no mixture has kind {self.kind!r}, density {self.density} and majority "
                f"{self.majority!r}; give a kind of {', '.join(kinds)}, a density from 0 to 1, and "
                f"a majority of {', '.join(ways)}"
            )


def weighted_delta(parts: Sequence[Factors], weights: Sequence[float]) -> Array:
    """Return Σ w_i · delta_i, float64 (out, in): what a combination should amount to."""
    _check(parts, weights)
    total: Array = np.sum([w * delta(f) for w, f in zip(weights, parts, strict=True)], axis=0)
    return total


def concatenate(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return the sum as factors of rank Σ r_i: A = [w_i·s_i·A_i], B = [B_i], scaling 1 ("cat")."""
    _check(parts, weights)
    return Factors(
        A=np.concatenate([w * f.scaling * f.A for w, f in zip(weights, parts, strict=True)]),
        B=np.concatenate([f.B for f in parts], axis=1),
        scaling=1.0,
    )


def truncate(factors: Factors, rank: int) -> LowRank:
    """Return the best rank-k part of a delta without forming it; of a concatenation: PEFT's "svd".

    With thin QR of both factors the SVD is that of a small core: delta = Q_b·(U·S·Vᵀ)·Q_aᵀ. Like
    PEFT, B = Q_b·U·S and A = Vᵀ·Q_aᵀ. Signs, and bases of equal singular values, are arbitrary.

    Raises:
        InputError: The rank is below 0, or the delta is not finite.
    """
    _require_rank(rank)
    q_b, r_b = np.linalg.qr(factors.B)
    q_a, r_a = np.linalg.qr(factors.A.T)
    u, s, vt = np.linalg.svd(_finite(factors.scaling * (r_b @ r_a.T)))
    k = min(rank, len(s))
    kept = Factors(A=vt[:k] @ q_a.T, B=q_b @ (u[:, :k] * s[:k]), scaling=1.0)
    return LowRank(factors=kept, tail=s[k:])


def refactor(difference: Array, rank: int) -> LowRank:
    """Return the best rank-k factors of a dense matrix, such as a merged weight minus its base.

    Raises:
        InputError: The rank is below 0, or the matrix is not finite.
    """
    _require_rank(rank)
    u, s, vt = np.linalg.svd(_finite(difference), full_matrices=False)
    kept = Factors(A=vt[:rank], B=u[:, :rank] * s[:rank], scaling=1.0)
    return LowRank(factors=kept, tail=s[rank:])


def mix_factors(parts: Sequence[Factors], weights: Sequence[float], mixture: Mixture) -> Factors:
    """Return PEFT's mixture of the A and, apart from them, of the B: no sum of the deltas.

    Both get the weight sqrt(|w_i·s_i|), A with its sign. So one adapter alone comes out right, and
    two give the cross terms B_1·A_2 and B_2·A_1 as well.

    Raises:
        InputError: The ranks differ, or the number of weights does.
    """
    _check(parts, weights)
    if len({f.rank for f in parts}) > 1:
        raise InputError("the ranks differ, so the factors cannot be added; use concatenate")
    shares = [w * f.scaling for w, f in zip(weights, parts, strict=True)]
    roots = [math.sqrt(abs(share)) for share in shares]
    signed = [math.copysign(root, share) for root, share in zip(roots, shares, strict=True)]
    return Factors(
        A=mix([f.A for f in parts], signed, mixture),
        B=mix([f.B for f in parts], roots, mixture),
        scaling=1.0,
    )


def mix(tensors: Sequence[Array], weights: Sequence[float], mixture: Mixture) -> Array:
    """Return PEFT's mixture of arrays of one shape.

    On factors it is PEFT's "linear", "ties" or "magnitude_prune" (`mix_factors`), on deltas the
    first step of "svd", "ties_svd" or "magnitude_prune_svd".
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
    """Return a tensor with all but its int(density · size) largest magnitudes set to zero."""
    if mixture.kind == "linear" or mixture.density >= 1:
        return tensor
    keep = int(mixture.density * tensor.size)
    order = np.argsort(-np.abs(tensor).ravel(), kind="stable")
    result = np.zeros(tensor.size)
    result[order[:keep]] = tensor.ravel()[order[:keep]]
    return result.reshape(tensor.shape)


def majority(stacked: Array, mixture: Mixture) -> Array:
    """Return 1.0 where an entry of (n, ...) has the majority's sign, else 0.0; zeros have none."""
    votes = stacked if mixture.majority == "total" else np.sign(stacked)
    elected = np.where(votes.sum(axis=0) >= 0, 1.0, -1.0)
    agrees: Array = (np.sign(stacked) == elected).astype(np.float64)
    return agrees


def _finite(matrix: Array) -> Array:
    if not np.isfinite(matrix).all():
        raise InputError(
            "a matrix with NaN or infinite entries has no singular values; look where they come "
            "from, such as a layer of the adapter or a product beyond float64's range"
        )
    return matrix


def _require_rank(rank: int) -> None:
    if rank < 0:
        raise InputError(f"nothing has a rank of {rank}; give one from 0")


def _check(parts: Sequence[Factors], weights: Sequence[float]) -> None:
    if not parts or len(parts) != len(weights):
        raise InputError(
            f"{len(parts)} adapters and {len(weights)} weights; give one weight for each adapter"
        )
    for factors in parts:
        require_factors(factors)
    if len({(f.B.shape[0], f.A.shape[1]) for f in parts}) > 1:
        raise InputError("the adapters are of modules of other sizes; give those of one module")
    if any(f.magnitude is not None or f.bias is not None for f in parts):
        raise InputError(
            "DoRA's magnitude and lora_bias are no part of a delta, so they can't be combined; "
            "merge each adapter into the base instead"
        )
