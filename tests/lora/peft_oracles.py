"""The results of PEFT's layers, each with its reference and its bound."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Array, Factors
from tests.lora.drawing import CASES, Case, cases, to_numpy, to_torch, with_bias, with_magnitude
from tests.lora.measuring import Measurement


def peft_linear(
    case: Case,
    dtype: str,
    *,
    name: str = "default",
    base_bias: Array | None = None,
    **config: Any,
) -> Any:
    """Build PEFT's Linear with the case's values."""
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear
    from torch import nn

    f = case.factors
    fan_in_fan_out = config.get("fan_in_fan_out", False)
    base = nn.Linear(*sides(f), bias=base_bias is not None)
    base.weight.data = to_torch(
        lora.storage_layout(case.weight, fan_in_fan_out=fan_in_fan_out), dtype
    )
    if base_bias is not None:
        base.bias.data = to_torch(base_bias, dtype)
    if fan_in_fan_out:
        base = _conv1d(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = Linear(base, name, config=LoraConfig(**config), r=f.rank, lora_alpha=1)
    layer.lora_A[name].weight.data = to_torch(f.A, dtype)
    layer.lora_B[name].weight.data = to_torch(f.B, dtype)
    if f.bias is not None:
        layer.lora_B[name].bias.data = to_torch(f.bias, dtype)
    if f.magnitude is not None:
        layer.lora_magnitude_vector[name].weight.data = to_torch(f.magnitude, dtype)
    layer.scaling[name] = f.scaling
    return layer.eval()


def sides(factors: Factors) -> tuple[int, int]:
    """Return (in, out)."""
    return factors.A.shape[1], factors.B.shape[0]


def _conv1d(linear: Any) -> Any:
    from transformers.pytorch_utils import Conv1D

    base = Conv1D(*linear.weight.shape[::-1])
    base.weight.data = linear.weight.data
    base.bias.data = linear.weight.data.new_zeros(linear.weight.shape[1])
    return base


def linear(dtype: str) -> Iterator[Measurement]:
    for _, case in cases(dtype, seed=0):
        layer = peft_linear(case, dtype)
        yield from _weights(layer, case, dtype)
        yield from _outputs(layer, case, dtype)


def dora(dtype: str) -> Iterator[Measurement]:
    for rng, plain in cases(dtype, seed=1, extreme=False):
        case = with_magnitude(rng, plain, dtype)
        layer = peft_linear(case, dtype, use_dora=True)
        yield from _weights(layer, case, dtype)
        yield from _outputs(layer, case, dtype)


def biased(dtype: str) -> Iterator[Measurement]:
    for rng, plain in cases(dtype, seed=2):
        case = with_bias(rng, plain, dtype)
        bias = lora.round_to(rng.standard_normal(len(case.weight)), dtype)
        layer = peft_linear(case, dtype, base_bias=bias, lora_bias=True)
        yield from _outputs(layer, case, dtype, bias)


def dora_on_biased_base(dtype: str) -> Iterator[Measurement]:
    for rng, plain in cases(dtype, seed=3, extreme=False):
        case = with_magnitude(rng, plain, dtype)
        bias = lora.round_to(rng.standard_normal(len(case.weight)), dtype)
        layer = peft_linear(case, dtype, base_bias=bias, use_dora=True)
        yield from _outputs(layer, case, dtype, bias)


def fan_in_fan_out(dtype: str) -> Iterator[Measurement]:
    for _, case in cases(dtype, seed=4):
        layer = peft_linear(case, dtype, fan_in_fan_out=True)
        found = to_numpy(layer.get_delta_weight("default"))
        expected = lora.storage_layout(lora.delta(case.factors), fan_in_fan_out=True)
        yield "delta", found, expected, lora.delta_bound(case.factors, dtype).T
        yield from _outputs(layer, case, dtype)


def several_adapters(dtype: str) -> Iterator[Measurement]:
    for number, (rng, case) in enumerate(cases(dtype, seed=5)):
        names = ("first", "second", "third")[: 2 + number % 2]
        layer, adapters = several(rng, case, dtype, names)
        layer.set_adapter(list(names))
        found = to_numpy(layer(to_torch(case.x, dtype)))
        expected = case.x @ (case.weight + sum(lora.delta(f) for f in adapters)).T
        yield "sum", found, expected, lora.sum_forward_bound(case.weight, adapters, case.x, dtype)


def several(
    rng: np.random.Generator, case: Case, dtype: str, names: Sequence[str]
) -> tuple[Any, list[Factors]]:
    """Build a layer with one drawn adapter for each name, all of the case's size."""
    from peft import LoraConfig

    layer, adapters = peft_linear(case, dtype, name=names[0]), [case.factors]
    for name in names[1:]:
        other = replace(
            case.factors,
            A=lora.round_to(rng.permuted(case.factors.A), dtype),
            B=lora.round_to(rng.permuted(-case.factors.B), dtype),
            scaling=0.75,
        )
        layer.update_layer(name, other.rank, lora_alpha=1, config=LoraConfig())
        layer.lora_A[name].weight.data = to_torch(other.A, dtype)
        layer.lora_B[name].weight.data = to_torch(other.B, dtype)
        layer.scaling[name] = other.scaling
        adapters.append(other)
    return layer, adapters


def mixed_dtypes(dtype: str) -> Iterator[Measurement]:
    """Measure a base in ``dtype`` with a float32 adapter, as PEFT loads it by default."""
    lower = lora.Arithmetic(dtype=dtype, mixed=True)
    for _, case in cases(dtype, seed=6):
        layer = peft_linear(case, dtype)
        for part in (layer.lora_A, layer.lora_B):
            part["default"].weight.data = part["default"].weight.data.float()
        found = to_numpy(layer(to_torch(case.x, dtype)))
        expected = lora.output(case.weight, case.factors, case.x)
        yield (
            "forward",
            found,
            expected,
            lora.forward_bound(case.weight, case.factors, case.x, lower),
        )
        for cycle in range(3):
            layer.merge(safe_merge=cycle % 2 == 1)
            if cycle == 0:
                merged = lora.merged_weight(case.weight, case.factors)
                bound = lora.merge_bound(case.weight, case.factors, lower)
                yield "merge", to_numpy(layer.base_layer.weight), merged, bound
            layer.unmerge()
        left = lora.merge_cycles_bound(case.weight, case.factors, lower, 3)
        yield "three cycles", to_numpy(layer.base_layer.weight), case.weight, left


def embedding(dtype: str) -> Iterator[Measurement]:
    for _, case in cases(dtype, seed=7):
        yield from _embedding(case, dtype)


def dora_embedding(dtype: str) -> Iterator[Measurement]:
    for rng, plain in cases(dtype, seed=8, extreme=False):
        yield from _embedding(with_magnitude(rng, plain, dtype), dtype, use_dora=True)


def convolution(dtype: str) -> Iterator[Measurement]:
    """Measure Conv1d, 2d and 3d in turn, with kernel sizes from 1, without and with groups."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora import layer as layers
    from torch import nn

    for number, (rng, case) in enumerate(cases(dtype, seed=9, count=2 * CASES + 2)):
        dims, groups = 1 + number % 3, 1 + number // 3 % 2
        kernel = tuple(int(k) for k in rng.integers(1, 4 if dims < 3 else 3, dims))
        if dims == 3 and kernel[:2] == (1, 1):
            kernel = (1, 2, kernel[2])  # PEFT takes (1, 1, k) for a 1x1 Conv2d, and fails
        stride = tuple(int(k) for k in rng.integers(1, 3, dims))
        padding = tuple(int(k) for k in rng.integers(0, 2, dims))
        in_features, rank, out = (groups * int(n) for n in rng.integers(1, 4, 3))
        base = getattr(nn, f"Conv{dims}d")(
            in_features, out, kernel, stride, padding, groups=groups, bias=False
        )
        size = lora.round_to(np.exp2(rng.integers(-3, 4, 2)), dtype)
        weight = lora.round_to(rng.standard_normal(base.weight.shape), dtype)
        a = lora.round_to(size[0] * rng.standard_normal((rank, in_features, *kernel)), dtype)
        b = lora.round_to(size[1] * rng.standard_normal((out, rank // groups, *[1] * dims)), dtype)
        x = lora.round_to(rng.standard_normal((in_features, *rng.integers(3, 5, dims))), dtype)
        base.weight.data = to_torch(weight, dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = getattr(layers, f"Conv{dims}d")(
                base, "default", config=LoraConfig(), r=rank, lora_alpha=1
            ).eval()
        layer.lora_A["default"].weight.data = to_torch(a, dtype)
        layer.lora_B["default"].weight.data = to_torch(b, dtype)
        layer.scaling["default"] = case.factors.scaling
        f = lora.peft_conv(a, b, case.factors.scaling, groups=groups)
        dense = lora.dense_kernel(weight, groups)
        rows = lora.patches(x, kernel, stride=stride, padding=padding)
        given = to_torch(x, dtype)[None]
        with torch.no_grad():
            found = to_numpy(layer(given))[0].reshape(out, -1).T
        bound = lora.forward_bound(dense, f, rows, dtype)
        yield f"forward, {groups} groups", found, lora.output(dense, f, rows), bound
        if groups > 1:
            continue  # PEFT refuses to merge these
        found = to_numpy(layer.get_delta_weight("default"))
        expected = lora.as_kernel(lora.delta(f), kernel)
        yield "delta", found, expected, lora.as_kernel(lora.delta_bound(f, dtype), kernel)
        layer.merge()
        merged = lora.as_kernel(lora.merged_weight(dense, f), kernel)
        bound = lora.as_kernel(lora.merge_bound(dense, f, dtype), kernel)
        yield "merge", to_numpy(layer.base_layer.weight), merged, bound
        with torch.no_grad():
            found = to_numpy(layer(given))[0].reshape(out, -1).T
        bound = lora.merged_forward_bound(dense, f, rows, dtype)
        yield "merged forward", found, lora.output(dense, f, rows), bound


def _weights(layer: Any, case: Case, dtype: str) -> Iterator[Measurement]:
    """Measure delta, merge, one cycle, ten cycles, and the extracted delta."""
    f, weight, base = case.factors, case.weight, layer.base_layer
    found = to_numpy(layer.get_delta_weight("default"))
    yield "delta", found, lora.delta(f), lora.delta_bound(f, dtype)
    layer.merge()
    merged = lora.merged_weight(weight, f)
    yield "merge", to_numpy(base.weight), merged, lora.merge_bound(weight, f, dtype)
    read = to_numpy(base.weight - to_torch(weight, dtype))
    yield "extraction", read, merged - weight, lora.extraction_bound(weight, f, dtype)
    layer.unmerge()
    yield "unmerge", to_numpy(base.weight), weight, lora.unmerge_bound(weight, f, dtype)
    for _ in range(2):
        layer.merge()
        layer.unmerge()
    left = lora.merge_cycles_bound(weight, f, dtype, 3)
    yield "three cycles", to_numpy(base.weight), weight, left
    base.weight.data = to_torch(weight, dtype)


def _outputs(
    layer: Any, case: Case, dtype: str, base_bias: Array | None = None
) -> Iterator[Measurement]:
    """Measure the forward pass, unmerged and merged."""
    import torch

    f, weight, x = case.factors, case.weight, case.x
    expected = lora.output(weight, f, x) + (0.0 if base_bias is None else base_bias)
    with torch.no_grad():
        found = to_numpy(layer(to_torch(x, dtype)))
        yield "forward", found, expected, lora.forward_bound(weight, f, x, dtype, base_bias)
        layer.merge(safe_merge=False)
        found = to_numpy(layer(to_torch(x, dtype)))
    bound = lora.merged_forward_bound(weight, f, x, dtype, base_bias)
    yield "merged forward", found, expected, bound


def peft_embedding(case: Case, dtype: str, **config: Any) -> Any:
    """Build PEFT's Embedding with the case's values."""
    from peft import LoraConfig
    from peft.tuners.lora.layer import Embedding
    from torch import nn

    f = case.factors
    base = nn.Embedding(*sides(f))
    base.weight.data = to_torch(case.weight.T, dtype)
    layer = Embedding(base, "default", config=LoraConfig(**config), r=f.rank, lora_alpha=1).eval()
    layer.lora_embedding_A["default"].data = to_torch(f.A, dtype)
    layer.lora_embedding_B["default"].data = to_torch(f.B, dtype)
    if f.magnitude is not None:
        layer.lora_magnitude_vector["default"].weight.data = to_torch(f.magnitude, dtype)
    layer.scaling["default"] = f.scaling
    return layer


def _embedding(case: Case, dtype: str, **config: Any) -> Iterator[Measurement]:
    import torch

    f = case.factors
    layer = peft_embedding(case, dtype, **config)
    base = layer.base_layer
    tokens = np.arange(case.weight.shape[1])
    one_hot = np.eye(len(tokens))
    with torch.no_grad():
        found = to_numpy(layer(torch.from_numpy(tokens)))
    bound = lora.forward_bound(case.weight, f, one_hot, dtype)
    yield "forward", found, lora.output(case.weight, f, one_hot), bound
    found = to_numpy(layer.get_delta_weight("default"))
    yield "delta", found, lora.embedding_delta(f), lora.delta_bound(f, dtype).T
    layer.merge()
    merged = lora.merged_weight(case.weight, f).T
    yield "merge", to_numpy(base.weight), merged, lora.merge_bound(case.weight, f, dtype).T
    layer.unmerge()
    left = lora.unmerge_bound(case.weight, f, dtype).T
    yield "unmerge", to_numpy(base.weight), case.weight.T, left


ORACLES = (
    linear,
    dora,
    biased,
    dora_on_biased_base,
    fan_in_fan_out,
    several_adapters,
    mixed_dtypes,
    embedding,
    dora_embedding,
    convolution,
)
