"""What PEFT's add_weighted_adapter makes of drawn adapters, with the reference and the bound.

One model of many layers serves for as many cases: one call combines the adapters of them all.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Factors, Mixture
from tests.lora.drawing import CASES, DTYPES, SCALINGS, to_numpy, to_torch
from tests.lora.measuring import Measurement

WEIGHTS = (1.0, -0.5, 0.7, 2.0, -1.3, 1 / 3)
MIXTURES = {
    "linear": Mixture(),
    "ties": Mixture(kind="ties", density=0.6),
    "magnitude_prune": Mixture(kind="magnitude_prune", density=0.5),
    "dare_linear": Mixture(),
    "dare_ties": Mixture(kind="ties"),
}
RANK = 3
Combined = tuple[list[list[Factors]], list[float], Any]


def mixtures(dtype: str) -> Iterator[Measurement]:
    for kind, mixture in MIXTURES.items():
        density = mixture.density
        for seed in range(2):
            parts, weights, layers = combined(dtype, seed, CASES // 2, kind, density=density)
            for own, layer in zip(parts, layers, strict=True):
                expected = lora.mix_factors(own, weights, mixture)
                bound = lora.mix_bound(own, weights, mixture, dtype)
                yield f"{kind} A", to_numpy(layer.lora_A["all"].weight), expected.A, bound.A
                yield f"{kind} B", to_numpy(layer.lora_B["all"].weight), expected.B, bound.B


def concatenation(dtype: str) -> Iterator[Measurement]:
    for seed in range(2):
        parts, weights, layers = combined(dtype, seed, CASES // 2, "cat")
        for own, layer in zip(parts, layers, strict=True):
            a, b = (to_numpy(x["all"].weight) for x in (layer.lora_A, layer.lora_B))
            exact = lora.weighted_delta(own, weights)
            yield "cat", b @ a, exact, lora.concatenate_bound(own, weights, dtype)
            expected = lora.concatenate(own, weights)
            assert np.array_equal(b, expected.B)


def sums(dtype: str) -> Iterator[Measurement]:
    """The first step of PEFT's "svd", its weighted sum of computed deltas."""
    import torch
    from peft.utils.merge_utils import task_arithmetic

    parts, weights, layers = combined(dtype, 5, CASES, "cat")
    for own, layer in zip(parts, layers, strict=True):
        deltas = [layer.get_delta_weight(name) for name in ("first", "second", "third")[: len(own)]]
        found = to_numpy(task_arithmetic(deltas, torch.tensor(weights)))
        expected = lora.weighted_delta(own, weights)
        yield "sum", found, expected, lora.weighted_delta_bound(own, weights, dtype)


def combined(
    dtype: str, seed: int, layers: int, kind: str, density: float | None = None, **more: Any
) -> Combined:
    """Build a model of linear layers with two or three adapters, and combine them as "all"."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from torch import nn

    rng = np.random.default_rng([seed, DTYPES.index(dtype), len(kind)])
    count = 2 + seed % 2
    names = ("first", "second", "third")[:count]
    model = nn.Sequential()
    for n in range(layers):
        inputs, out = (int(side) for side in rng.integers(1, 9, 2))
        model.add_module(f"layer{n}", nn.Linear(inputs, out, bias=False))
    model.to(to_torch(np.zeros(1), dtype).dtype)
    targets = [f"layer{n}" for n in range(layers)]
    tuned = LoraModel(model, LoraConfig(r=RANK, target_modules=targets), names[0])
    for name in names[1:]:
        tuned.peft_config[name] = LoraConfig(r=RANK, target_modules=targets)
        tuned.inject_adapter(tuned.model, name)
    found = [module for module in tuned.model.children() if hasattr(module, "lora_A")]
    parts = []
    for layer in found:
        own = []
        for name in names:
            a = lora.round_to(rng.standard_normal((RANK, layer.in_features)), dtype)
            b = lora.round_to(rng.standard_normal((layer.out_features, RANK)), dtype)
            f = Factors(A=a, B=b, scaling=float(rng.choice(SCALINGS)))
            layer.lora_A[name].weight.data = to_torch(a, dtype)
            layer.lora_B[name].weight.data = to_torch(b, dtype)
            layer.scaling[name] = f.scaling
            own.append(f)
        parts.append(own)
    weights = [float(w) for w in rng.choice(WEIGHTS, count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned.add_weighted_adapter(list(names), weights, "all", kind, density=density, **more)
    return parts, weights, found


ORACLES = (mixtures, concatenation, sums)
