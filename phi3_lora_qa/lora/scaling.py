"""The scaling s of delta = s · B·A, as a config defines it for each module."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.lora_scaling import scaling_of

Value = TypeVar("Value", int, float)


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """The ranks and alphas in an adapter's config.

    Attributes:
        rank: r, for every module that no pattern matches.
        alpha: lora_alpha, for every module that no pattern matches.
        rank_pattern: Ranks by pattern.
        alpha_pattern: Alphas by pattern.
        rslora: use_rslora, for every module.

    Example:
        >>> ScalingConfig(rank=8, alpha=16).rslora
        False
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False


@dataclass(frozen=True, kw_only=True)
class ModuleScaling:
    """The rank, alpha and scaling of one module.

    Attributes:
        rank: r.
        alpha: lora_alpha.
        scaling: s = alpha / r, or alpha / sqrt(r).

    Example:
        >>> ModuleScaling(rank=8, alpha=16, scaling=2.0).scaling
        2.0
    """

    rank: int
    alpha: float
    scaling: float


def alpha_for(scale: float, rank: int, *, rslora: bool = False) -> float:
    """Return the alpha for which `scaling_of` returns exactly ``scale``.

    If one exists, it is scale · r rounded to float64: where dividing that by r does not return
    ``scale``, its neighbors are farther away.

    Args:
        scale: The scaling s to reach.
        rank: r, at least 1.
        rslora: Whether s is alpha / sqrt(r).

    Returns:
        lora_alpha.

    Raises:
        InputError: No float64 alpha gives this scaling exactly, or the rank is below 1.

    Example:
        >>> alpha_for(0.5, 8)
        4.0
    """
    alpha = scale * (math.sqrt(rank) if rslora else rank)
    if scaling_of(alpha, rank, rslora=rslora) != scale:
        raise InputError(
            f"no lora_alpha gives the scaling exactly: {scale!r} at rank {rank}; pad the factors "
            f"with zeros to a rank that is a power of {'four' if rslora else 'two'}"
        )
    return alpha


def module_scaling(module: str, config: ScalingConfig) -> ModuleScaling:
    r"""Return the rank, alpha and scaling that a config gives to one module, as PEFT resolves them.

    The first pattern that matches wins, in the config's order. A pattern is a regular expression
    for the end of the module's name, from a dot or from the start: ``(.*\.)?(pattern)$``
    (``get_pattern_key`` in peft/utils/other.py). A rank from a pattern changes the scaling, too.

    The patterns must be trusted, since a regular expression may run forever; use
    `phi3_lora_qa.adapter.target_matching` for an untrusted config.

    Args:
        module: The module's name in the base, such as ``model.layers.0.mlp.down_proj``.
        config: The ranks and alphas in the adapter's config.

    Returns:
        The module's rank, alpha and scaling.

    Raises:
        InputError: The rank is below 1, or a pattern is not a valid regular expression.

    Example:
        >>> config = ScalingConfig(rank=8, alpha=16, rank_pattern={"down_proj": 4})
        >>> module_scaling("model.layers.0.mlp.down_proj", config).scaling
        4.0
    """
    rank = _first_match(config.rank_pattern, module, config.rank)
    alpha = _first_match(config.alpha_pattern, module, config.alpha)
    scaling = scaling_of(alpha, rank, rslora=config.rslora)
    return ModuleScaling(rank=rank, alpha=alpha, scaling=scaling)


def _first_match(patterns: Mapping[str, Value], module: str, default: Value) -> Value:
    for pattern, value in patterns.items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise InputError(
                f"invalid regular expression: {escape(pattern, 80)} ({error}); fix the pattern"
            ) from error
        if found:
            return value
    # PEFT then looks up the module's own name, for a key that does not match itself, such as "a+b".
    return patterns.get(module, default)
