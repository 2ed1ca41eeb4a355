"""What loralib is told: one config for a model, and what follows for each of its layers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from phi3_lora_qa.conversion.fused_blocks import Mask
from phi3_lora_qa.errors import InputError, MissingDependencyError, escape

LayerType = Literal["Linear", "MergedLinear", "Embedding", "Conv2d"]
"""loralib's classes that a layer is replaced by, by their own names."""

Bias = Literal["none", "all", "lora_only"]
"""Which of the base's biases are trained too, as loralib calls it."""

LAYER_TYPES: tuple[str, ...] = get_args(LayerType)
BIASES: tuple[str, ...] = get_args(Bias)


@dataclass(frozen=True, kw_only=True)
class LoralibConfig:
    """How a model is adapted.

    Attributes:
        rank: r, the rows of A; of each chosen block in a fused layer.
        alpha: The delta is alpha / r · B·A.
        dropout: On the input of A, in training; loralib has none for embeddings and convolutions.
        targets: Full names of layers, or ends of names after a dot.
        masks: The blocks that are trained, by the name of a fused layer; all where it is not
            named. A layer whose blocks are not known needs a mask to become a MergedLinear.
        bias: Which of the base's biases are trained too.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float = 0.0
    masks: Mapping[str, Mask] = field(default_factory=dict)
    bias: Bias = "none"

    def __post_init__(self) -> None:
        if self.bias not in BIASES:
            raise InputError(
                f"bias is '{escape(str(self.bias), 40)}'; loralib knows {', '.join(BIASES)}"
            )
        if not self.targets:
            raise InputError("no targets are given; name the layers to adapt")


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One adapted layer: all that its factors do not say themselves.

    Attributes:
        name: Its full name in the base.
        kind: loralib's class.
        rank: r, of each enabled block where there is a mask.
        alpha: The scaling is alpha / r.
        dropout: On the input of A, in training.
        mask: MergedLinear's ``enable_lora``; empty for the other kinds.
        groups: Of a convolution.
    """

    name: str
    kind: LayerType
    rank: int
    alpha: float
    dropout: float = 0.0
    mask: tuple[bool, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        where = f"{escape(self.name, 120)} ({self.kind})"
        if type(self.rank) is not int or self.rank < 1:
            raise InputError(f"{where}: the rank is {self.rank!r}; give a whole number from 1")
        if not math.isfinite(self.alpha):
            raise InputError(f"{where}: alpha is {self.alpha}; give a number")
        if not 0 <= self.dropout < 1:
            raise InputError(f"{where}: dropout is {self.dropout}; give a share from 0 to below 1")
        if self.dropout and self.kind in ("Embedding", "Conv2d"):
            raise InputError(
                f"{where}: loralib ignores the dropout of an {self.kind} without a word; "
                "set it to 0, or leave the layer out"
            )
        if (self.kind == "MergedLinear") is not any(self.mask):
            raise InputError(
                f"{where}: a MergedLinear needs at least one enabled block, and the others have "
                "none; correct the mask"
            )

    @property
    def scaling(self) -> float:
        """The factor s = alpha / r, as loralib computes it."""
        return self.alpha / self.rank

    @property
    def enabled(self) -> int:
        """How many pairs of factors lie stacked in A and B."""
        return sum(self.mask) or 1


def require_loralib() -> None:
    """Raise MissingDependencyError where loralib is not installed."""
    from importlib.util import find_spec

    if find_spec("loralib") is None:
        raise MissingDependencyError(
            'loralib is not installed; run: pip install "phi3-lora-qa[loralib]"'
        )
