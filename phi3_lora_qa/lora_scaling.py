"""The scaling s of delta = s · B·A; without numpy, so that the linter can use it."""

import math

from phi3_lora_qa.errors import InputError


def scaling_of(alpha: float, rank: int, *, rslora: bool = False) -> float:
    """Return s = alpha / r, or rank-stabilized alpha / sqrt(r).

    Sources: Hu et al. 2021 (arXiv 2106.09685), section 4.1; Kalajdzievski 2023 (arXiv 2312.03732),
    section 3.

    Args:
        alpha: lora_alpha.
        rank: r, at least 1.
        rslora: Whether to divide by sqrt(r).

    Returns:
        The scaling s.

    Raises:
        InputError: The rank is below 1.

    Example:
        >>> scaling_of(16, 8), scaling_of(16, 4, rslora=True)
        (2.0, 8.0)
    """
    if rank < 1:
        raise InputError(f"rank must be at least 1: got {rank}; pass a positive rank")
    return alpha / math.sqrt(rank) if rslora else alpha / rank
