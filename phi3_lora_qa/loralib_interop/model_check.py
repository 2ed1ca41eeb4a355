"""Finds loralib's known faults in a model that was built with loralib by hand.

Each fault was reproduced on loralib 0.1.2; the tests reproduce it on the installed version.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.loralib_interop.loralib_config import Bias, require_loralib
from phi3_lora_qa.loralib_interop.loralib_state import (
    foreign_lora_names,
    join_names,
    merged_modules,
    untrained_conv_biases,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One fault found in a model.

    Attributes:
        fault: The fault's short name.
        what: What is wrong.
        where: The modules in which it was found.
        why: Why it matters.
        fix: How to fix it.

    Example:
        >>> what, why = "merged weights", "they contain the delta"
        >>> fix = "call model.train()"
        >>> print(Problem(fault="merged", what=what, where=("0",), why=why, fix=fix))
        merged weights in 0: they contain the delta; call model.train()
    """

    fault: str
    what: str
    where: tuple[str, ...]
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what} in {join_names(self.where)}: {self.why}; {self.fix}"


def check_model(model: "nn.Module", bias: Bias = "none") -> tuple[Problem, ...]:
    """Find loralib's known faults in a model.

    Args:
        model: Any model with loralib layers; it is not changed, and no forward pass is run.
        bias: The bias setting that will be passed to loralib's own helpers.

    Returns:
        The faults that were found.

    Raises:
        MissingDependencyError: loralib is not installed.

    Example:
        >>> import loralib
        >>> from torch import nn
        >>> model = nn.Sequential(loralib.MergedLinear(4, 6, r=2))
        >>> [problem.fault for problem in check_model(model)]
        ['empty-mask', 'not-picklable']
    """
    require_loralib()
    return tuple(_find(model, bias))


def _find(model: "nn.Module", bias: Bias) -> Iterator[Problem]:
    found: Mapping[str, Callable[[], list[str]]] = {
        "conv-shape": lambda: _where(model, _is_shapeless),
        "empty-mask": lambda: _where(model, _has_no_block),
        "merged": lambda: merged_modules(model),
        "foreign-lora-name": lambda: foreign_lora_names(model),
        "conv-dropout": lambda: _where(model, _ignores_dropout),
        "max-norm": lambda: _where(model, lambda m: getattr(m, "max_norm", None) is not None),
        "not-picklable": lambda: _where(model, lambda m: not _is_module(m.lora_dropout)),
        "conv-bias": lambda: untrained_conv_biases(model) if bias == "lora_only" else [],
    }
    for fault, names in found.items():
        where = names()
        if where:
            what, why, fix = FAULTS[fault]
            yield Problem(fault=fault, what=what, where=tuple(where), why=why, fix=fix)


FAULTS = {
    "conv-shape": (
        "loralib's Conv1d or Conv3d with a kernel larger than 1",
        "its factors are shaped for two dimensions, and the forward pass fails",
        "do not adapt the layer, or adapt it with PEFT",
    ),
    "empty-mask": (
        "a MergedLinear of rank above 0 with no block enabled",
        "enable_lora is [False] by default; no factors are created, and the forward pass fails",
        "pass enable_lora with at least one True, or r=0",
    ),
    "merged": (
        "merged weights",
        "a state_dict() saved now contains the delta in the weights and again as factors, and "
        "factors loaded now are later subtracted from weights to which they were never added",
        "call model.train() before saving or loading, or build the layers with merge_weights=False",
    ),
    "foreign-lora-name": (
        'a parameter that is not loralib\'s with "lora_" in its name',
        "loralib looks for this string anywhere in a name: the parameter is trained and saved",
        "rename the module",
    ),
    "conv-dropout": (
        "a convolution with lora_dropout",
        "loralib never applies it",
        "set it to 0, because it has no effect",
    ),
    "max-norm": (
        "an Embedding with max_norm",
        "the lookup in A rescales A itself, in place",
        "build it without max_norm",
    ),
    "not-picklable": (
        "lora_dropout=0",
        "loralib stores a lambda for it, so torch.save(model) and worker processes fail",
        "save lora_state_dict(model) instead, or set layer.lora_dropout = torch.nn.Identity()",
    ),
    "conv-bias": (
        'the bias of a convolution under bias="lora_only"',
        "loralib 0.1.2 looks for it on the wrapper instead of on .conv: it is neither trained nor "
        "saved",
        'use bias="all" or "none"',
    ),
}
"""What is wrong, why it matters and how to fix it, by the fault's short name."""


def _where(model: "nn.Module", is_faulty: Callable[[Any], bool]) -> list[str]:
    from loralib.layers import LoRALayer

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, LoRALayer) and module.r > 0 and is_faulty(module)
    ]


def _is_shapeless(module: Any) -> bool:
    from loralib.layers import ConvLoRA
    from torch import nn

    return (
        isinstance(module, ConvLoRA)
        and not isinstance(module.conv, nn.Conv2d)
        and any(size > 1 for size in module.conv.kernel_size)
    )


def _has_no_block(module: Any) -> bool:
    return hasattr(module, "enable_lora") and not any(module.enable_lora)


def _ignores_dropout(module: Any) -> bool:
    return hasattr(module, "conv") and getattr(module.lora_dropout, "p", 0) > 0


def _is_module(value: object) -> bool:
    from torch import nn

    return isinstance(value, nn.Module)
