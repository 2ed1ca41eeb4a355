"""loralib's own three helpers, guarded: what is trained, what is saved, what is loaded."""

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
    """What of a state landed in a model, and what did not; nothing was dropped without a word.

    Attributes:
        loaded: What was copied into the model.
        missing: LoRA parameters of the model that the state lacks; the base's own do not count.
        unexpected: Names in the state that are no LoRA parameter and no bias of the model.
        mismatched: Name, shape in the state, shape in the model.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def complete(self) -> bool:
        """Whether the model now holds exactly what the state does."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        shapes = [f"{name} {saved}, not {own}" for name, saved, own in self.mismatched]
        parts = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
        )
        told = [f"{len(names)} {what} ({join_names(names)})" for what, names in parts if names]
        return f"{len(self.loaded)} tensors loaded" + "".join(f", {text}" for text in told)


def mark_only_lora_as_trainable(model: "nn.Module", bias: Bias = "none") -> None:
    """Freeze all but loralib's factors, and the biases that are asked for.

    Raises:
        InputError: ``bias`` is unknown, or a parameter that is not loralib's would stay
            trainable, because loralib looks for "lora_" anywhere in a name.
    """
    import loralib

    _guard(model, bias)
    loralib.mark_only_lora_as_trainable(model, bias)


def lora_state_dict(model: "nn.Module", bias: Bias = "none") -> "dict[str, Tensor]":
    """Return loralib's factors, and the biases that are asked for, by their names in the model.

    Raises:
        InputError: As `mark_only_lora_as_trainable`; or the weights are merged, so that what is
            saved beside this state would hold the delta a second time.
    """
    import loralib

    _guard(model, bias)
    _require_unmerged(model, "saving")
    state: dict[str, Tensor] = loralib.lora_state_dict(model, bias)
    return state


def load_lora_state(
    model: "nn.Module", state: "Mapping[str, Tensor]", *, strict: bool = True
) -> LoadReport:
    """Load a state that holds LoRA parameters alone, and say what did not fit.

    It is what ``load_state_dict(state, strict=False)`` is used for, with a report. A weight of
    the base in the state is not loaded but reported as unexpected.

    Args:
        model: A model with loralib layers; its parameters' dtype is kept.
        state: By the names in the model.
        strict: Raise where the report is not complete; nothing is loaded then.

    Raises:
        InputError: The weights are merged; the state holds something else than tensors of real
            floating-point numbers; or ``strict``, and something did not fit.
    """
    import torch

    _require_unmerged(model, "loading")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            what = getattr(tensor, "dtype", type(tensor).__name__)
            raise InputError(
                f"{escape(str(name), 160)} is {what}, which is no LoRA parameter; give the state "
                "that lora_state_dict returned"
            )
    own = dict(model.named_parameters(remove_duplicate=False))
    wanted = [f"{name}.{factor}" for name in lora_modules(model) for factor in FACTORS]
    takes = set(wanted) | {name for name in own if name.rpartition(".")[2] == "bias"}
    fitting = [n for n in state if n in takes and state[n].shape == own[n].shape]
    report = LoadReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in wanted if name not in state),
        unexpected=tuple(name for name in state if name not in takes),
        mismatched=tuple(
            (n, tuple(state[n].shape), tuple(own[n].shape))
            for n in state
            if n in takes and n not in fitting
        ),
    )
    if strict and not report.complete:
        raise InputError(
            f"the state does not fit the model: {report}; give the state of a model that was "
            "adapted alike, or load with strict=False and read the report"
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
    """Return the layers whose weights hold their delta at this moment."""
    return [name for name, module in lora_modules(model).items() if module.merged]


def foreign_lora_names(model: "nn.Module") -> list[str]:
    """Return the parameters and buffers that are not loralib's, but that loralib takes for its own.

    loralib looks for "lora_" anywhere in a name.
    """
    own = {f"{name}.{factor}" for name in lora_modules(model) for factor in FACTORS}
    return [
        name for name in model.state_dict(keep_vars=True) if "lora_" in name and name not in own
    ]


def untrained_conv_biases(model: "nn.Module") -> list[str]:
    """Return the convolutions with a bias, which loralib's bias="lora_only" passes over."""
    from loralib.layers import ConvLoRA

    return [
        name
        for name, module in lora_modules(model).items()
        if isinstance(module, ConvLoRA) and module.conv.bias is not None
    ]


def join_names(names: Any, limit: int = 3) -> str:
    """Return a few names for a message, made safe for a terminal."""
    names = list(names)
    text = ", ".join(escape(str(name), 120) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def _guard(model: "nn.Module", bias: str) -> None:
    if bias not in BIASES:
        raise InputError(f"bias is '{escape(bias, 40)}'; loralib knows {', '.join(BIASES)}")
    names = foreign_lora_names(model)
    if names:
        raise InputError(
            f'loralib takes every parameter with "lora_" in its name for its own, and these are '
            f"not: {join_names(names)}; rename the modules"
        )
    if bias == "lora_only" and (convolutions := untrained_conv_biases(model)):
        raise InputError(
            f'loralib 0.1.2 neither trains nor saves the bias of a convolution under "lora_only": '
            f'{join_names(convolutions)}; use bias="all" or "none"'
        )


def _require_unmerged(model: "nn.Module", doing: str) -> None:
    merged = merged_modules(model)
    if merged:
        raise InputError(
            f"{len(merged)} layers are merged ({join_names(merged)}): their weights hold the delta, and "
            f"{doing} now would count it twice or take the wrong one out later; "
            "call model.train() first"
        )
