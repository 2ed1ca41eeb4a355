"""Guarded versions of loralib's three helpers: what is trained, what is saved, what is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.loralib_interop.loralib_config import BIASES, Bias, require_loralib

if TYPE_CHECKING:
    from torch import Tensor, nn

FACTORS = ("lora_A", "lora_B")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Which tensors of a state were loaded into a model, and which were not.

    Attributes:
        loaded: Names that were copied into the model.
        missing: LoRA parameters of the model that the state lacks; those of the base do not count.
        unexpected: Names in the state that are neither a LoRA parameter nor a bias of the model.
        mismatched: Name, shape in the state, shape in the model.

    Example:
        >>> loaded, missing = ("0.lora_A",), ("0.lora_B",)
        >>> report = LoadReport(loaded=loaded, missing=missing, unexpected=(), mismatched=())
        >>> str(report)
        '1 tensors loaded, 1 missing (0.lora_B)'
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def complete(self) -> bool:
        """Whether the model's LoRA parameters are exactly those of the state."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        shapes = [f"{name} {saved}, not {own}" for name, saved, own in self.mismatched]
        parts = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of a different shape", shapes),
        )
        details = [f"{len(names)} {what} ({join_names(names)})" for what, names in parts if names]
        return f"{len(self.loaded)} tensors loaded" + "".join(f", {text}" for text in details)


def mark_only_lora_as_trainable(model: "nn.Module", bias: Bias = "none") -> None:
    """Freeze all parameters except loralib's factors and the requested biases.

    Args:
        model: A model with loralib layers.
        bias: Which biases of the base stay trainable.

    Raises:
        InputError: ``bias`` is unknown, or a parameter that is not loralib's would stay trainable,
            because loralib looks for "lora_" anywhere in a name.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> layers = adapt(model, LoralibConfig(rank=2, alpha=4, targets=("0",)))
        >>> mark_only_lora_as_trainable(model, "all")
        >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['0.bias', '0.lora_A', '0.lora_B']
    """
    import loralib

    _guard(model, bias)
    loralib.mark_only_lora_as_trainable(model, bias)


def lora_state_dict(model: "nn.Module", bias: Bias = "none") -> "dict[str, Tensor]":
    """Return loralib's factors and the requested biases, by their names in the model.

    Args:
        model: A model with loralib layers.
        bias: Which biases of the base to include.

    Returns:
        Tensors that share the model's memory.

    Raises:
        InputError: As `mark_only_lora_as_trainable`; or the weights are merged, so that weights
            saved with this state would contain the delta a second time.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> layers = adapt(model, LoralibConfig(rank=2, alpha=4, targets=("0",)))
        >>> sorted(lora_state_dict(model))
        ['0.lora_A', '0.lora_B']
    """
    import loralib

    _guard(model, bias)
    _require_unmerged(model, "saving")
    state: dict[str, Tensor] = loralib.lora_state_dict(model, bias)
    return state


def load_lora_state(
    model: "nn.Module", state: "Mapping[str, Tensor]", *, strict: bool = True
) -> LoadReport:
    """Load a state that contains only LoRA parameters, and report what did not fit.

    It replaces ``load_state_dict(state, strict=False)``. A weight of the base in the state is not
    loaded but reported as unexpected.

    Args:
        model: A model with loralib layers; the dtype of its parameters is kept.
        state: Tensors by their names in the model.
        strict: Whether to raise an error, and load nothing, if the report is not complete.

    Returns:
        The report.

    Raises:
        InputError: The weights are merged; the state contains something other than real
            floating-point tensors; or ``strict`` is set and something did not fit.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> layers = adapt(model, LoralibConfig(rank=2, alpha=4, targets=("0",)))
        >>> load_lora_state(model, lora_state_dict(model)).complete
        True
    """
    import torch

    _require_unmerged(model, "loading")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            what = getattr(tensor, "dtype", type(tensor).__name__)
            raise InputError(
                f"not a LoRA parameter: {escape(str(name), 160)} is {what}; pass the state that "
                "lora_state_dict returned"
            )
    own = dict(model.named_parameters(remove_duplicate=False))
    required = [f"{name}.{factor}" for name in lora_modules(model) for factor in FACTORS]
    accepted = set(required) | {name for name in own if name.rpartition(".")[2] == "bias"}
    fitting = [n for n in state if n in accepted and state[n].shape == own[n].shape]
    report = LoadReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in required if name not in state),
        unexpected=tuple(name for name in state if name not in accepted),
        mismatched=tuple(
            (n, tuple(state[n].shape), tuple(own[n].shape))
            for n in state
            if n in accepted and n not in fitting
        ),
    )
    if strict and not report.complete:
        raise InputError(
            f"the state does not fit the model: {report}; pass the state of a model that was "
            "adapted in the same way, or load with strict=False and read the report"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(state[name])
    return report


def lora_modules(model: "nn.Module") -> dict[str, Any]:
    """Return the loralib layers of a model that have factors, by name."""
    require_loralib()
    from loralib.layers import LoRALayer

    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LoRALayer) and hasattr(module, "lora_A")
    }


def merged_modules(model: "nn.Module") -> list[str]:
    """Return the layers whose weights currently contain their delta."""
    return [name for name, module in lora_modules(model).items() if module.merged]


def foreign_lora_names(model: "nn.Module") -> list[str]:
    """Return the parameters and buffers that loralib mistakes for its own.

    loralib looks for "lora_" anywhere in a name.
    """
    own = {f"{name}.{factor}" for name in lora_modules(model) for factor in FACTORS}
    return [
        name for name in model.state_dict(keep_vars=True) if "lora_" in name and name not in own
    ]


def untrained_conv_biases(model: "nn.Module") -> list[str]:
    """Return the convolutions with a bias, which loralib's bias="lora_only" ignores."""
    from loralib.layers import ConvLoRA

    return [
        name
        for name, module in lora_modules(model).items()
        if isinstance(module, ConvLoRA) and module.conv.bias is not None
    ]


def join_names(names: Any, limit: int = 3) -> str:
    """Return a few names for a message, escaped for a terminal."""
    names = list(names)
    text = ", ".join(escape(str(name), 120) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def _guard(model: "nn.Module", bias: str) -> None:
    if bias not in BIASES:
        raise InputError(f"unknown bias: '{escape(bias, 40)}'; use one of {', '.join(BIASES)}")
    names = foreign_lora_names(model)
    if names:
        raise InputError(
            f'loralib treats every parameter with "lora_" in its name as its own, and these are '
            f"not: {join_names(names)}; rename the modules"
        )
    if bias == "lora_only" and (convolutions := untrained_conv_biases(model)):
        raise InputError(
            f'loralib 0.1.2 neither trains nor saves the bias of a convolution under "lora_only": '
            f'{join_names(convolutions)}; use bias="all" or "none"'
        )


def _require_unmerged(model: "nn.Module", action: str) -> None:
    merged = merged_modules(model)
    if merged:
        raise InputError(
            f"{len(merged)} layers are merged ({join_names(merged)}): their weights contain the "
            f"delta, and {action} now would add it twice or subtract a different one later; "
            "call model.train() first"
        )
