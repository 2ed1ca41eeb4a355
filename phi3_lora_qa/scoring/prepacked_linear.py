"""Linear layers that multiply by oneDNN, with weights that are reordered for it once.

torch passes a float32 linear layer to MKL, which reorders the whole weight for each product; when
one token is generated, that is most of the work. oneDNN accepts weights that are already in its own
order. The products are the same sums, added in a different order. Measured in
docs/decisions/0007-prepacked-linear-layers.md.

Not every processor and build of torch supports this in every dtype. `matmul_backends` finds out by
a small product in each dtype.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.lora import format_of, gamma
from phi3_lora_qa.setting_specs import ENGINES

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Linear, Module

PACKED = "packed by oneDNN"
"""What `matmul_backends` returns for a dtype whose weights are prepacked."""

MAX_BYTES = 4 << 30
"""The most bytes of weights that are stored a second time, in oneDNN's order. The limit does not
depend on the free memory, so that equal runs give equal results."""


def matmul_backends(model: "Module", engine: str = ENGINES[0]) -> Mapping[str, str]:
    """Return how a model's linear layers multiply while it is scored on this machine.

    Args:
        model: Any module; only plain ``torch.nn.Linear`` layers on the CPU are ever prepacked.
        engine: The engine that scores, ``fast`` or ``plain``; only the fast one prepacks.

    Returns:
        For each dtype of such layers, by its name such as ``bfloat16``: `PACKED`, or that torch's
        own products are used, and why. Empty if the model has no such layer.
    """
    import torch

    layers = _plain_layers(model)
    size = sum(layer.weight.nbytes for layer in layers)
    backends = {}
    for dtype in dict.fromkeys(layer.weight.dtype for layer in layers):
        if engine != ENGINES[0]:
            reason = f"the {engine} engine"
        elif size > MAX_BYTES:
            reason = f"the model's weights take more than {MAX_BYTES >> 30} GiB"
        else:
            reason = _why_not_packed(dtype)
        backend = f"torch's own (torch {torch.__version__}: {reason})" if reason else PACKED
        backends[str(dtype).removeprefix("torch.")] = backend
    return backends


@contextmanager
def prepack_linear_layers(model: "Module") -> Iterator[None]:
    """Let a model's linear layers, an adapter's included, use prepacked weights for a while.

    A layer whose weight is changed or replaced in that time (PEFT does so to adapt a parameter)
    uses its current weight. Layers that `matmul_backends` excludes, layers of other kinds (such as
    quantized ones), and weights on other devices are left alone.
    """
    backends = matmul_backends(model)
    layers = [
        layer
        for layer in _plain_layers(model)
        if backends[str(layer.weight.dtype).removeprefix("torch.")] == PACKED
    ]
    for layer in layers:
        layer.forward = _PackedForward(layer)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _PackedForward:
    """A layer's forward with the prepacked weight, for as long as the weight is unchanged."""

    def __init__(self, layer: "Linear") -> None:
        self._layer, self._weight = layer, layer.weight
        self._version = layer.weight._version
        self._packed = _pack(layer.weight.detach())

    def __call__(self, x: "Tensor") -> "Tensor":
        from torch.nn.functional import linear

        weight, bias = self._layer.weight, self._layer.bias
        if weight is not self._weight or weight._version != self._version:
            return linear(x, weight, bias)
        return _multiply(x, self._packed, bias)


def _plain_layers(model: "Module") -> "list[Linear]":
    import torch

    return [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear and module.weight.device.type == "cpu"
    ]


def _why_not_packed(dtype: "torch.dtype") -> str:
    """Return why weights of a dtype cannot be prepacked; empty if they can.

    A small product is computed and compared with its exact value. That tests the processor, the
    limits that its user set (such as ONEDNN_MAX_CPU_ISA), and this build of torch together.
    """
    import torch

    name = str(dtype).removeprefix("torch.")
    if dtype not in (torch.float32, torch.bfloat16):
        return f"{name} is not packed"
    if not _is_available():
        return "oneDNN is not built in or is switched off"
    inner = 83  # not a multiple of a vector's length, so that the remainder is tested too
    values = torch.arange(80 * inner, dtype=torch.float64)
    weight, bias = values.sin().reshape(80, inner).to(dtype), values[:80].cos().to(dtype)
    x = values[: 5 * inner].cos().reshape(5, inner).to(dtype)
    try:
        found = _multiply(x, _pack(weight), bias).double()
    except Exception as error:  # torch raises various errors on a processor or build without it
        return f"oneDNN refuses {name} here ({type(error).__name__}: {str(error)[:120]})"
    x, weight, bias = x.double(), weight.double(), bias.double()
    exact, sizes = x @ weight.T + bias, x.abs() @ weight.abs().T + bias.abs()
    # Accumulated in float32 and rounded once: Higham, Accuracy and Stability, section 3.1.
    accumulated = float(gamma(inner + 1, "float32")) * sizes
    bound = accumulated + format_of(name).unit_roundoff * (exact.abs() + accumulated)
    return "" if ((found - exact).abs() <= bound).all() else f"oneDNN's {name} is wrong here"


def _is_available() -> bool:
    import torch

    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _pack(weight: "Tensor") -> "Tensor":
    packed: Tensor = _operators()._reorder_linear_weight(weight)
    return packed


def _multiply(x: "Tensor", packed: "Tensor", bias: "Tensor | None") -> "Tensor":
    product: Tensor = _operators()._linear_pointwise(x, packed, bias, "none", [], "")
    return product


def _operators() -> Any:
    import torch

    return torch.ops.mkldnn
