"""Norms and ranks of a delta from thin QR of its factors; the (out, in) matrix is never formed."""

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
    """Return the singular values of delta that may differ from 0, largest first.

    Args:
        factors: The module's LoRA factors.

    Returns:
        float64 (min(r, out, in),); all NaN if a factor or their product is NaN or overflows
        float64.

    Raises:
        InputError: As `phi3_lora_qa.lora.delta`.

    Example:
        >>> import numpy as np
        >>> singular_values(Factors(A=np.eye(2), B=np.eye(2), scaling=0.5)).round(6).tolist()
        [0.5, 0.5]
    """
    small = core(factors)
    if not np.isfinite(small).all():
        return np.full(min(small.shape), np.nan)
    return np.linalg.svdvals(small)


def frobenius_norm(factors: Factors) -> float:
    """Return ‖delta‖_F, the root of the sum of squared entries.

    Args:
        factors: The module's LoRA factors.

    Returns:
        The norm; NaN if a factor is NaN.

    Raises:
        InputError: As `phi3_lora_qa.lora.delta`.

    Example:
        >>> import numpy as np
        >>> round(frobenius_norm(Factors(A=np.ones((1, 2)), B=np.ones((2, 1)), scaling=0.5)), 6)
        1.0
    """
    return float(np.linalg.norm(core(factors)))


def spectral_norm(factors: Factors) -> float:
    """Return ‖delta‖_2, the largest factor by which delta stretches an input; 0.0 for rank 0.

    Args:
        factors: The module's LoRA factors.

    Returns:
        The norm; NaN if a factor is NaN.

    Raises:
        InputError: As `phi3_lora_qa.lora.delta`.

    Example:
        >>> import numpy as np
        >>> round(spectral_norm(Factors(A=np.eye(2), B=np.eye(2), scaling=0.5)), 6)
        0.5
    """
    return float(np.max(singular_values(factors), initial=0.0))


def stable_rank(values: Array) -> float:
    """Return ‖delta‖_F² / ‖delta‖_2².

    Args:
        values: The singular values of delta, float64, largest first.

    Returns:
        A number from 1 to r; 0.0 for a zero delta, NaN for NaN.

    Example:
        >>> import numpy as np
        >>> stable_rank(np.array([2.0, 2.0, 0.0]))
        2.0
    """
    largest = float(np.max(values, initial=0.0))
    return float(np.sum((values / largest) ** 2)) if largest > 0 else largest


def effective_rank(values: Array) -> float:
    """Return exp(-Σ p·ln p) with p = values / Σ values.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality",
    EUSIPCO, section 2.

    Args:
        values: The singular values of delta, float64.

    Returns:
        A number from 1 to r; 0.0 for a zero delta, NaN for NaN.

    Example:
        >>> import numpy as np
        >>> round(effective_rank(np.array([2.0, 2.0, 0.0])), 6)
        2.0
    """
    total = float(np.sum(values))
    if not total > 0:
        return total
    p = values[values > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))
