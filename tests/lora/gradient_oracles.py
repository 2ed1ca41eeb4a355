"""The gradients that autograd computes for PEFT's layers, each with reference and bound."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from phi3_lora_qa import lora
from tests.lora.drawing import Case, cases, to_numpy, to_torch, with_bias, with_magnitude
from tests.lora.measuring import Measurement
from tests.lora.peft_oracles import peft_embedding, peft_linear

PLACES = {"A": "lora_A", "B": "lora_B", "magnitude": "lora_magnitude_vector"}


def gradients(dtype: str) -> Iterator[Measurement]:
    for rng, plain in cases(dtype, seed=10):
        case = with_bias(rng, plain, dtype)
        layer = peft_linear(case, dtype, lora_bias=True)
        layer(to_torch(case.x, dtype)).backward(to_torch(case.gradient, dtype))
        bias = layer.lora_B["default"].bias
        parts = {part: getattr(layer, PLACES[part])["default"].weight for part in "AB"}
        yield from _gradients(parts | {"bias": bias}, case, dtype)


def dora(dtype: str) -> Iterator[Measurement]:
    """Measure bases with and without a bias, in turn."""
    for number, (rng, plain) in enumerate(cases(dtype, seed=11, extreme=False)):
        case = with_magnitude(rng, plain, dtype)
        bias = lora.round_to(rng.standard_normal(len(case.weight)), dtype) if number % 2 else None
        layer = peft_linear(case, dtype, base_bias=bias, use_dora=True)
        layer(to_torch(case.x, dtype)).backward(to_torch(case.gradient, dtype))
        parts = {part: getattr(layer, place)["default"].weight for part, place in PLACES.items()}
        yield from _gradients(parts, case, dtype, base_bias=bias)


def dora_embedding(dtype: str) -> Iterator[Measurement]:
    """Measure tokens some of which occur several times."""
    import torch

    for rng, plain in cases(dtype, seed=12, extreme=False):
        rows, tokens = plain.x.shape
        picked = rng.integers(tokens, size=rows)
        case = with_magnitude(rng, replace(plain, x=np.eye(tokens)[picked]), dtype)
        layer = peft_embedding(case, dtype, use_dora=True)
        layer(torch.from_numpy(picked)).backward(to_torch(case.gradient, dtype))
        parts = {
            "A": layer.lora_embedding_A["default"],
            "B": layer.lora_embedding_B["default"],
            "magnitude": layer.lora_magnitude_vector["default"].weight,
        }
        yield from _gradients(parts, case, dtype, batch=_worst(dtype))


def dora_convolution(dtype: str) -> Iterator[Measurement]:
    """Measure Conv1d and 2d in turn, on an input as large as the kernel."""
    for number, (rng, plain) in enumerate(cases(dtype, seed=13, extreme=False)):
        case = with_magnitude(rng, plain, dtype)
        layer, x = _convolution(case, 1 + number % 2, dtype)
        y = layer(x)
        y.backward(to_torch(case.gradient, dtype).reshape(y.shape))
        parts = {part: getattr(layer, place)["default"].weight for part, place in PLACES.items()}
        yield from _gradients(parts, case, dtype, batch=_worst(dtype))


def _convolution(case: Case, dims: int, dtype: str) -> tuple[Any, Any]:
    """Build PEFT's convolution with DoRA and the case's values, and its input."""
    from peft import LoraConfig
    from peft.tuners.lora import layer as layers
    from torch import nn

    f = case.factors
    in_features = case.x.shape[1]
    side = next(k for k in (3, 2, 1) if in_features % k == 0)
    kernel = (side, 1)[:dims]
    channels = in_features // side
    base = getattr(nn, f"Conv{dims}d")(channels, len(case.weight), kernel, bias=False)
    base.weight.data = to_torch(case.weight, dtype).reshape(base.weight.shape)
    layer = getattr(layers, f"Conv{dims}d")(
        base, "default", config=LoraConfig(use_dora=True), r=f.rank, lora_alpha=1
    ).eval()
    assert f.magnitude is not None
    for part, values in (("A", f.A), ("B", f.B), ("magnitude", f.magnitude)):
        tensor = getattr(layer, PLACES[part])["default"].weight
        tensor.data = to_torch(values, dtype).reshape(tensor.shape)
    layer.scaling["default"] = f.scaling
    return layer, to_torch(case.x, dtype).reshape(-1, channels, *kernel)


def _worst(dtype: str) -> lora.Arithmetic:
    return lora.Arithmetic(dtype=dtype, accumulate=dtype)


def _gradients(parts: dict[str, Any], case: Case, dtype: str, **how: Any) -> Iterator[Measurement]:
    """Compare every part's gradient, after a backward pass."""
    given = case.weight, case.factors, case.x, case.gradient
    expected = lora.factor_gradients(*given)
    bound = lora.gradient_bound(*given, dtype, **how)
    for part, tensor in parts.items():
        wanted = getattr(expected, part)
        found = to_numpy(tensor.grad).reshape(wanted.shape)
        yield f"grad {part}", found, wanted, getattr(bound, part)


ORACLES = (gradients, dora, dora_embedding, dora_convolution)
