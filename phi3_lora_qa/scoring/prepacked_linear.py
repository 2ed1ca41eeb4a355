"""Linear layers that multiply by oneDNN, on weights that are laid out for it once.

A linear layer of torch hands float32 to MKL, which brings the whole weight into its own order for
each product anew; when a token is made, that is most of the work. oneDNN takes the weight in the
order that it computes in. The products are the same sums, added up in another order. Measured in
docs/decisions/0007-prepacked-linear-layers.md.

Not every processor and build of torch can do so in every dtype. `products_of` asks, by a small
product in each dtype, and nothing else decides.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.lora import format_of, gamma

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Linear, Module

PACKED = "packed by oneDNN"
"""What `products_of` says of a dtype whose products are made on packed weights."""

MOST_BYTES = 4 << 30
"""Of weights that are held a second time in oneDNN's order. A larger model is left as it is: by a
fixed size and not by what memory is free, so that the same run gives the same figures again."""


def products_of(model: "Module") -> Mapping[str, str]:
    """Return how a model's linear layers multiply while it is scored, on this processor.

    Args:
        model: Any module; only plain ``torch.nn.Linear`` layers on the CPU are ever packed.

    Returns:
        For each dtype of such layers, by its name such as ``bfloat16``: `PACKED`, or that torch's
        own products are used and why. Empty where the model has no such layer.
    """
    import torch

    layers = _plain_layers(model)
    held = sum(layer.weight.nbytes for layer in layers)
    found = {}
    for dtype in dict.fromkeys(layer.weight.dtype for layer in layers):
        if held > MOST_BYTES:
            why = f"the model's weights take more than {MOST_BYTES >> 30} GiB"
        else:
            why = _why_not_packed(dtype)
        name = str(dtype).removeprefix("torch.")
        found[name] = f"torch's own (torch {torch.__version__}: {why})" if why else PACKED
    return found


@contextmanager
def packed_products(model: "Module") -> Iterator[None]:
    """Let a model's linear layers multiply on packed weights meanwhile; those of an adapter too.

    A layer whose weight is changed or exchanged meanwhile (PEFT does so to adapt a parameter)
    multiplies by what its weight then is. Layers of which `products_of` says otherwise, layers of
    other kinds (quantised ones), and weights on other devices are left alone.
    """
    products = products_of(model)
    layers = [
        layer
        for layer in _plain_layers(model)
        if products[str(layer.weight.dtype).removeprefix("torch.")] == PACKED
    ]
    for layer in layers:
        layer.forward = _Product(layer)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _Product:
    """A layer's forward: the packed weight, as long as it is still the layer's own."""

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
    """Return why products of a dtype cannot be made on packed weights; empty where they can.

    A small product is made and compared with its exact value. That asks the processor, the limits
    that its user set (such as ONEDNN_MAX_CPU_ISA), and this build of torch all at once.
    """
    import torch

    name = str(dtype).removeprefix("torch.")
    if dtype not in (torch.float32, torch.bfloat16):
        return f"{name} is not packed"
    if not _is_there():
        return "oneDNN is not built in or is switched off"
    inner = 83  # not a multiple of a vector's length, so that a rest is multiplied too
    values = torch.arange(80 * inner, dtype=torch.float64)
    weight, bias = values.sin().reshape(80, inner).to(dtype), values[:80].cos().to(dtype)
    x = values[: 5 * inner].cos().reshape(5, inner).to(dtype)
    try:
        found = _multiply(x, _pack(weight), bias).double()
    except Exception as error:  # whatever torch raises for a processor or build without it
        return f"oneDNN refuses {name} here ({type(error).__name__}: {str(error)[:120]})"
    x, weight, bias = x.double(), weight.double(), bias.double()
    exact, sizes = x @ weight.T + bias, x.abs() @ weight.abs().T + bias.abs()
    # Accumulated in float32 and rounded once: Higham, Accuracy and Stability, section 3.1.
    accumulated = float(gamma(inner + 1, "float32")) * sizes
    bound = accumulated + format_of(name).u * (exact.abs() + accumulated)
    return "" if ((found - exact).abs() <= bound).all() else f"oneDNN's {name} is wrong here"


def _is_there() -> bool:
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
