"""Linear layers that multiply by oneDNN, on weights that are laid out for it once.

A linear layer of torch hands float32 to MKL, which brings the whole weight into its own order for
each product anew; when a token is made, that is most of the work. oneDNN takes the weight in the
order that it computes in. The products are the same sums, added up in another order. Measured in
docs/decisions/0007-products-on-packed-weights.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Linear, Module

MOST_BYTES = 4 << 30
"""Of weights that are held a second time in oneDNN's order. A larger model is left as it is: by a
fixed size and not by what memory is free, so that the same run gives the same figures again."""


@contextmanager
def packed_products(model: "Module") -> Iterator[None]:
    """Let a model's linear layers multiply on packed weights meanwhile; those of an adapter too.

    A layer whose weight is changed or exchanged meanwhile (PEFT does so to adapt a parameter)
    multiplies by what its weight then is. Nothing is done where oneDNN is not there, for layers of
    other kinds (quantised ones), and for weights on other devices.
    """
    layers = _layers(model)
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
        self._packed = _operators()._reorder_linear_weight(layer.weight.detach())

    def __call__(self, x: "Tensor") -> "Tensor":
        from torch.nn.functional import linear

        weight, bias = self._layer.weight, self._layer.bias
        if weight is not self._weight or weight._version != self._version:
            return linear(x, weight, bias)
        product: Tensor = _operators()._linear_pointwise(x, self._packed, bias, "none", [], "")
        return product


def _layers(model: "Module") -> "list[Linear]":
    import torch

    if not torch.backends.mkldnn.is_available() or not hasattr(
        _operators(), "_reorder_linear_weight"
    ):
        return []
    layers = [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
    ]
    held = sum(layer.weight.nbytes for layer in layers)
    return layers if held <= MOST_BYTES else []


def _operators() -> Any:
    import torch

    return torch.ops.mkldnn
