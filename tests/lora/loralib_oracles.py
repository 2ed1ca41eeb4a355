"""The results of loralib's layers where they are correct, with reference and bound."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Array
from tests.lora.drawing import CASES, Case, cases, to_numpy, to_torch
from tests.lora.measuring import Measurement


def linear(dtype: str) -> Iterator[Measurement]:
    for number, (_, case) in enumerate(cases(dtype, seed=20)):
        yield from _linear(case, dtype, fan_in_fan_out=number % 2 == 1)


def embedding(dtype: str) -> Iterator[Measurement]:
    import loralib
    import torch

    for _, case in cases(dtype, seed=21):
        f = case.factors
        layer = loralib.Embedding(case.weight.shape[1], case.weight.shape[0], r=f.rank)
        _fill(layer, layer.weight, case.weight.T, f, dtype)
        tokens = np.arange(case.weight.shape[1])
        one_hot = np.eye(len(tokens))
        with torch.no_grad():
            found = to_numpy(layer(torch.from_numpy(tokens)))
        bound = lora.forward_bound(case.weight, f, one_hot, dtype)
        yield "forward", found, lora.output(case.weight, f, one_hot), bound
        layer.eval()
        merged = case.weight.T + lora.embedding_delta(f)
        yield "merge", to_numpy(layer.weight), merged, lora.merge_bound(case.weight, f, dtype).T
        layer.train()
        left = lora.unmerge_bound(case.weight, f, dtype).T
        yield "unmerge", to_numpy(layer.weight), case.weight.T, left


def merged_linear(dtype: str) -> Iterator[Measurement]:
    import loralib
    import torch

    for rng, case in cases(dtype, seed=22):
        parts = int(rng.integers(1, 5))
        mask = rng.random(parts) < 0.6
        mask[int(rng.integers(parts))] = True
        rank, inputs, rows = (
            case.factors.A.shape[0],
            case.factors.A.shape[1],
            int(rng.integers(1, 4)),
        )
        enabled = int(mask.sum())
        size = 2.0 ** rng.integers(-4, 4)
        a = lora.round_to(size * rng.standard_normal((rank * enabled, inputs)), dtype)
        b = lora.round_to(rng.standard_normal((rows * enabled, rank)), dtype)
        weight = lora.round_to(rng.standard_normal((rows * parts, inputs)), dtype)
        f = lora.merged_linear(a, b, case.factors.scaling, mask.tolist())
        layer = loralib.MergedLinear(
            inputs, rows * parts, r=rank, enable_lora=mask.tolist(), bias=False
        )
        _fill(layer, layer.weight, weight, replace(f, B=b), dtype)
        with torch.no_grad():
            found = to_numpy(layer(to_torch(case.x, dtype)))
        bound = lora.dense_forward_bound(weight, f, case.x, dtype)
        yield "forward", found, lora.output(weight, f, case.x), bound
        found = to_numpy(layer.merge_AB() * layer.scaling)
        yield "delta", found, lora.delta(f), lora.delta_bound(f, dtype)
        layer.eval()
        bound = lora.merge_bound(weight, f, dtype)
        yield "merge", to_numpy(layer.weight), lora.merged_weight(weight, f), bound


def convolution(dtype: str) -> Iterator[Measurement]:
    """Measure Conv2d with and without groups, and Conv1d of kernel size 1, which alone works."""
    import loralib
    import torch

    for number, (rng, case) in enumerate(cases(dtype, seed=23, count=2 * CASES)):
        dims, groups = 1 + number % 2, 1 + number // 2 % 2
        size = 1 if dims == 1 else int(rng.integers(1, 4))
        kernel = (size,) * dims
        in_features, out = (groups * int(n) for n in rng.integers(1, 4, 2))
        rank = case.factors.rank
        a = lora.round_to(rng.standard_normal((rank * size, in_features * size)), dtype)
        b = lora.round_to(rng.standard_normal((out // groups * size, rank * size)), dtype)
        f = replace(case.factors, A=a, B=b)
        build = loralib.Conv1d if dims == 1 else loralib.Conv2d
        layer = build(in_features, out, size, r=rank, groups=groups, bias=False, padding=1)
        shape = tuple(layer.conv.weight.shape)
        weight = lora.round_to(rng.standard_normal(shape), dtype)
        _fill(layer, layer.conv.weight, weight, f, dtype)
        x = lora.round_to(rng.standard_normal((in_features, *[4] * dims)), dtype)
        with torch.no_grad():
            found = to_numpy(layer(to_torch(x, dtype)[None]))[0].reshape(out, -1).T
        # loralib forms the merged kernel each time; as a matrix it is one linear layer on patches.
        flat = weight.reshape(b.shape[0], a.shape[1])
        merged = lora.merged_weight(flat, f).reshape(shape)
        merge_bound = lora.merge_bound(flat, f, dtype).reshape(shape)
        rows = lora.patches(x, kernel, padding=(1,) * dims)
        arithmetic = lora.Arithmetic(dtype=dtype)
        kernels = lora.Approximation(
            value=lora.dense_kernel(merged, groups), error=lora.dense_kernel(merge_bound, groups)
        )
        y = arithmetic.product(lora.exact(rows), kernels.transposed())
        yield "forward", found, y.value, y.error
        layer.eval()
        expected = weight + lora.loralib_conv_delta(a, b, f.scaling, shape)
        yield "merge", to_numpy(layer.conv.weight), expected, merge_bound


def _linear(case: Case, dtype: str, *, fan_in_fan_out: bool) -> Iterator[Measurement]:
    import loralib
    import torch

    f, weight = case.factors, case.weight

    def storage_layout(values: Array) -> Array:
        return lora.storage_layout(values, fan_in_fan_out=fan_in_fan_out)

    layer = loralib.Linear(
        f.A.shape[1], f.B.shape[0], r=f.rank, fan_in_fan_out=fan_in_fan_out, bias=False
    )
    _fill(layer, layer.weight, storage_layout(weight), f, dtype)
    expected = lora.output(weight, f, case.x)
    with torch.no_grad():
        found = to_numpy(layer(to_torch(case.x, dtype)))
        yield "forward", found, expected, lora.forward_bound(weight, f, case.x, dtype)
        layer.eval()
        merged = storage_layout(lora.merged_weight(weight, f))
        yield (
            "merge",
            to_numpy(layer.weight),
            merged,
            storage_layout(lora.merge_bound(weight, f, dtype)),
        )
        found = to_numpy(layer(to_torch(case.x, dtype)))
        bound = lora.merged_forward_bound(weight, f, case.x, dtype)
        yield "merged forward", found, expected, bound
    layer.train()
    left = storage_layout(lora.unmerge_bound(weight, f, dtype))
    yield "unmerge", to_numpy(layer.weight), storage_layout(weight), left
    for _ in range(2):
        layer.eval()
        layer.train()
    left = storage_layout(lora.merge_cycles_bound(weight, f, dtype, 3))
    yield "three cycles", to_numpy(layer.weight), storage_layout(weight), left


def _fill(layer: Any, parameter: Any, weight: Array, factors: lora.Factors, dtype: str) -> None:
    parameter.data = to_torch(weight, dtype)
    layer.lora_A.data = to_torch(factors.A, dtype)
    layer.lora_B.data = to_torch(factors.B, dtype)
    layer.scaling = factors.scaling


ORACLES = (linear, embedding, merged_linear, convolution)
