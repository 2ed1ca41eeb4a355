"""The config of an adapted model, and the description of each of its layers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from phi3_lora_qa.conversion.fused_blocks import Mask
from phi3_lora_qa.errors import InputError, MissingDependencyError, escape
from phi3_lora_qa.extras import is_installed, pip_command

LoralibClass = Literal["Linear", "MergedLinear", "Embedding", "Conv2d"]
"""loralib's layer classes, by name."""

Bias = Literal["none", "all", "lora_only"]
"""Which biases of the base are trained, in loralib's terms."""

LORALIB_CLASSES: tuple[str, ...] = get_args(LoralibClass)
BIASES: tuple[str, ...] = get_args(Bias)


@dataclass(frozen=True, kw_only=True)
class LoralibConfig:
    """How a model is adapted with loralib.

    Attributes:
        rank: r, the rows of A; in a fused layer those of each enabled block.
        alpha: The delta is alpha / r · B·A.
        targets: Full names of layers, or ends of names after a dot.
        dropout: Dropout on the input of A in training; loralib has none for embeddings and
            convolutions.
        masks: The enabled blocks, by the name of a fused layer; all blocks if it is not named. A
            layer whose blocks are unknown needs a mask to become a MergedLinear.
        bias: Which biases of the base are trained, too.

    Raises:
        InputError: The bias is unknown, or there are no targets.

    Example:
        >>> LoralibConfig(rank=8, alpha=16, targets=("o_proj",)).bias
        'none'
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
                f"unknown bias: '{escape(str(self.bias), 40)}'; use one of {', '.join(BIASES)}"
            )
        if not self.targets:
            raise InputError("there are no targets; name the layers to adapt")


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One adapted layer: everything that its factors do not contain.

    Attributes:
        name: Its full name in the base.
        kind: loralib's class.
        rank: r; with a mask that of each enabled block.
        alpha: The scaling is alpha / r.
        dropout: Dropout on the input of A in training.
        mask: MergedLinear's ``enable_lora``; empty for the other kinds.
        groups: The groups of a convolution.

    Raises:
        InputError: A value is out of range, or loralib would ignore it.

    Example:
        >>> LayerSpec(name="o_proj", kind="Linear", rank=8, alpha=16).scaling
        2.0
    """

    name: str
    kind: LoralibClass
    rank: int
    alpha: float
    dropout: float = 0.0
    mask: tuple[bool, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        where = f"{escape(self.name, 120)} ({self.kind})"
        if type(self.rank) is not int or self.rank < 1:
            raise InputError(
                f"{where}: rank must be at least 1: got {self.rank!r}; pass a positive integer"
            )
        if not math.isfinite(self.alpha):
            raise InputError(f"{where}: alpha must be finite: got {self.alpha}; pass a number")
        if not 0 <= self.dropout < 1:
            raise InputError(
                f"{where}: dropout must be at least 0 and below 1: got {self.dropout}; "
                "pass a rate in this range"
            )
        if self.dropout and self.kind in ("Embedding", "Conv2d"):
            raise InputError(
                f"{where}: loralib silently ignores the dropout of a layer of this class: got "
                f"{self.dropout}; set it to 0, or remove the layer from the targets"
            )
        if (self.kind == "MergedLinear") is not any(self.mask):
            raise InputError(
                f"{where}: a MergedLinear needs a mask with at least one enabled block, and other "
                f"layers take no mask: got {list(self.mask)}; fix the mask"
            )

    @property
    def scaling(self) -> float:
        """The scaling s = alpha / r, as loralib computes it."""
        return self.alpha / self.rank

    @property
    def enabled(self) -> int:
        """The number of factor pairs that are stacked in A and B."""
        return sum(self.mask) or 1


def require_loralib() -> None:
    """Raise MissingDependencyError if loralib is not installed.

    Raises:
        MissingDependencyError: loralib is not installed.

    Example:
        >>> require_loralib()
    """
    if not is_installed("loralib"):
        raise MissingDependencyError(f"loralib is not installed; run: {pip_command('loralib')}")
