"""Norms and ranks of a delta, from thin QR of its factors: the (out, in) matrix is never formed."""

import numpy as np

from phi3_lora_qa.lora.factors import Array, Factors, require_factors


def core(factors: Factors) -> Array:
    """Return s · R_b·R_aᵀ, a small matrix with the singular values of delta.

    With thin QR, B = Q_b·R_b and Aᵀ = Q_a·R_a, so delta = Q_b·(s · R_b·R_aᵀ)·Q_aᵀ, and the
    orthonormal Q change no singular value. Its sides are at most r.
    """
    require_factors(factors)
    r_b: Array = np.linalg.qr(factors.B).R
    r_a: Array = np.linalg.qr(factors.A.T).R
    small: Array = factors.scaling * (r_b @ r_a.T)
    return small


def singular_values(factors: Factors) -> Array:
    """Return the min(r, out, in) singular values of delta that may differ from 0, largest first.

    They are NaN where a factor, or their product, is beyond float64's range or no number.
    """
    small = core(factors)
    if not np.isfinite(small).all():
        return np.full(min(small.shape), np.nan)
    return np.linalg.svdvals(small)


def frobenius(factors: Factors) -> float:
    """Return ‖delta‖_F, the root of the sum of squared entries."""
    return float(np.linalg.norm(core(factors)))


def spectral_norm(factors: Factors) -> float:
    """Return ‖delta‖_2, the most by which delta stretches an input; 0.0 for rank 0."""
    return float(np.max(singular_values(factors), initial=0.0))


def stable_rank(values: Array) -> float:
    """Return ‖delta‖_F² / ‖delta‖_2², between 1 and r; 0.0 for a delta of zeros, NaN for NaN.

    Args:
        values: Its singular values, largest first.
    """
    largest = float(np.max(values, initial=0.0))
    return float(np.sum((values / largest) ** 2)) if largest > 0 else largest


def effective_rank(values: Array) -> float:
    """Return exp(-Σ p·ln p) with p = values / Σ values, between 1 and r.

    It is 0.0 for a delta of zeros, and NaN for NaN.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality",
    EUSIPCO, section 2.
    """
    total = float(np.sum(values))
    if not total > 0:
        return total
    p = values[values > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))
