"""The factor s of delta = s · B·A, as a config means it for each module."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from phi3_lora_qa.errors import InputError, escape

Value = TypeVar("Value", int, float)


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """What an adapter's config says of ranks and alphas.

    Attributes:
        rank: r, for every module that no pattern names.
        alpha: lora_alpha, likewise.
        rank_pattern: Ranks by pattern.
        alpha_pattern: Alphas by pattern.
        rslora: use_rslora, for every module.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False


@dataclass(frozen=True, kw_only=True)
class ModuleScaling:
    """What a config gives to one module.

    Attributes:
        rank: r.
        alpha: lora_alpha.
        scaling: s = alpha / r, or alpha / sqrt(r).
    """

    rank: int
    alpha: float
    scaling: float


def scaling_of(alpha: float, rank: int, *, rslora: bool = False) -> float:
    """Return s = alpha / r, or rank-stabilised alpha / sqrt(r).

    Sources: Hu et al. 2021 (arXiv 2106.09685), section 4.1; Kalajdzievski 2023 (arXiv 2312.03732),
    section 3.

    Raises:
        InputError: The rank is not positive.
    """
    if rank < 1:
        raise InputError(f"a rank of {rank} has no scaling alpha / r; give a rank of at least 1")
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def alpha_for(scale: float, rank: int, *, rslora: bool = False) -> float:
    """Return the alpha for which `scaling_of` gives exactly ``scale``, for a config that needs one.

    That is scale · r if any: it is the float64 nearest to what is asked, and where dividing it by r
    does not give ``scale`` back, its neighbours lie farther off.

    Raises:
        InputError: No float64 alpha gives this scaling exactly, or the rank is not positive.
    """
    alpha = scale * (math.sqrt(rank) if rslora else rank)
    if scaling_of(alpha, rank, rslora=rslora) != scale:
        raise InputError(
            f"no lora_alpha gives the scaling {scale!r} exactly at rank {rank}; pad the factors "
            f"with zeros to a rank that is a power of {'four' if rslora else 'two'}"
        )
    return alpha


def module_scaling(module: str, config: ScalingConfig) -> ModuleScaling:
    r"""Return the rank, alpha and scaling that a config gives to one module, as PEFT resolves them.

    The first pattern that matches counts, in the config's order. A pattern is a regular expression
    for the end of the module's name, from a dot or from the start: ``(.*\.)?(pattern)$``
    (``get_pattern_key`` in peft/utils/other.py). A rank from a pattern changes the scaling, too.

    The patterns are trusted, as a regular expression may run for ever;
    `phi3_lora_qa.adapter.target_matching` is for a config from elsewhere.

    Args:
        module: The module's name in the base, such as ``model.layers.0.mlp.down_proj``.
        config: What the adapter's config says of ranks and alphas.

    Raises:
        InputError: The rank is not positive, or a pattern is no regular expression.
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
                f"the pattern {escape(pattern, 80)} is no regular expression ({error}); correct it"
            ) from error
        if found:
            return value
    # PEFT then looks the module's own name up: a key that is no pattern for itself, such as "a+b".
    return patterns.get(module, default)
