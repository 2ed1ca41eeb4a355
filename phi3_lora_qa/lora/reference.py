"""Reference values: what a LoRA module must compute, from its factors in float64.

numpy only, so that nothing here shares code with what it checks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Factors:
    """One module's LoRA as read from the adapter's file.

    Attributes:
        A: lora_A, float64 (r, in).
        B: lora_B, float64 (out, r).
        scaling: s = alpha / r, or alpha / sqrt(r) for rsLoRA.
        magnitude: DoRA's m, float64 (out,); None without DoRA.
        bias: lora_B's own bias, float64 (out,), added times s; None without lora_bias.
    """

    A: Array
    B: Array
    scaling: float
    magnitude: Array | None = None
    bias: Array | None = None

    @property
    def rank(self) -> int:
        """r, the number of rows of A."""
        return int(self.A.shape[0])


def delta(factors: Factors) -> Array:
    """Return delta = s · B·A, float64 (out, in) (Hu et al. 2021, eq. 3)."""
    product: Array = factors.scaling * (factors.B @ factors.A)
    return product


def output(weight: Array, factors: Factors, x: Array) -> Array:
    """Return W'·x + s · b for one input x, float64 (in,) to (out,), without the base's own bias.

    W' is `merged_weight`; b is lora_B's bias, zero without lora_bias.
    """
    y: Array = merged_weight(weight, factors) @ x
    return y if factors.bias is None else y + factors.scaling * factors.bias


def block_diagonal(stacked: Array, blocks: int) -> Array:
    """Return the block-diagonal matrix (n, blocks · m) of blocks stacked as (n, m)."""
    rows, width = stacked.shape[0] // blocks, stacked.shape[1]
    dense = np.zeros((stacked.shape[0], blocks * width))
    for block in range(blocks):
        place = slice(block * rows, (block + 1) * rows)
        dense[place, block * width : (block + 1) * width] = stacked[place]
    return dense


def singular_values(factors: Factors) -> Array:
    """Return the r singular values of delta, largest first, without forming delta.

    With thin QR, B = Q_b·R_b and Aᵀ = Q_a·R_a, so delta = Q_b·(s · R_b·R_aᵀ)·Q_aᵀ, and the
    small r x r core has the same singular values.
    """
    r_b: Array = np.linalg.qr(factors.B).R
    r_a: Array = np.linalg.qr(factors.A.T).R
    return np.linalg.svdvals(factors.scaling * (r_b @ r_a.T))


def stable_rank(values: Array) -> float:
    """Return ‖delta‖_F² / ‖delta‖_2², between 1 and r; 0.0 for a delta of zeros."""
    largest = float(values[0]) if values.size else 0.0
    return float(np.sum((values / largest) ** 2)) if largest > 0 else 0.0


def merged_weight(weight: Array, factors: Factors) -> Array:
    """Return W + delta, or DoRA's m · (W + delta) / ‖W + delta‖ with norms over each output row.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA.

    Source: Liu et al. 2024 (arXiv 2402.09353), eq. 5, in the row layout of torch.nn.Linear.
    """
    combined = weight + delta(factors)
    if factors.magnitude is None:
        return combined
    norms = np.linalg.norm(combined, axis=1)
    scaled: Array = combined * (factors.magnitude / norms)[:, None]
    return scaled
