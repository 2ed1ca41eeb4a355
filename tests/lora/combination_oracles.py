"""What PEFT's add_weighted_adapter makes of drawn adapters, with the reference and the bound.

One model of many layers serves for as many cases: one call combines the adapters of them all.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
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
NAMES = ("first", "second", "third")


@dataclass(frozen=True)
class Adapted:
    """A model whose every layer carries the same number of drawn adapters.

    Attributes:
        model: PEFT's LoraModel.
        layers: Its adapted layers.
        parts: The adapters of each layer.
        weights: One for each adapter.
    """

    model: Any
    layers: list[Any]
    parts: list[list[Factors]]
    weights: list[float]

    def combine(self, kind: str, density: float) -> list[Any]:
        """Let PEFT add the combination of this kind, named after it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = list(NAMES[: len(self.weights)])
            self.model.add_weighted_adapter(names, self.weights, kind, kind, density=density)
        return self.layers


def mixtures(dtype: str) -> Iterator[Measurement]:
    for count in (2, 3):
        adapted = build(dtype, count)
        for kind, mixture in MIXTURES.items():
            layers = adapted.combine(kind, mixture.density)
            for own, layer in zip(adapted.parts, layers, strict=True):
                expected = lora.mix_factors(own, adapted.weights, mixture)
                bound = lora.mix_bound(own, adapted.weights, mixture, dtype)
                yield f"{kind} A", to_numpy(layer.lora_A[kind].weight), expected.A, bound.A
                yield f"{kind} B", to_numpy(layer.lora_B[kind].weight), expected.B, bound.B


def sums(dtype: str) -> Iterator[Measurement]:
    """PEFT's "cat", and the first step of its "svd", the weighted sum of computed deltas."""
    import torch
    from peft.utils.merge_utils import task_arithmetic

    for count in (2, 3):
        adapted = build(dtype, count)
        weights = adapted.weights
        layers = adapted.combine("cat", 1.0)
        for own, layer in zip(adapted.parts, layers, strict=True):
            exact = lora.weighted_delta(own, weights)
            a, b = (to_numpy(part["cat"].weight) for part in (layer.lora_A, layer.lora_B))
            yield "cat", b @ a, exact, lora.concatenate_bound(own, weights, dtype)
            assert np.array_equal(b, lora.concatenate(own, weights).B)
            deltas = [layer.get_delta_weight(name) for name in NAMES[:count]]
            found = to_numpy(task_arithmetic(deltas, torch.tensor(weights)))
            yield "sum", found, exact, lora.weighted_delta_bound(own, weights, dtype)


def build(dtype: str, count: int) -> Adapted:
    """Build a model of linear layers of drawn sizes with drawn adapters."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from torch import nn

    rng = np.random.default_rng([count, DTYPES.index(dtype)])
    model = nn.Sequential()
    for _ in range(CASES // 2):
        inputs, out = (int(side) for side in rng.integers(1, 9, 2))
        model.append(nn.ModuleDict({"linear": nn.Linear(inputs, out, bias=False)}))
    model.to(to_torch(np.zeros(1), dtype).dtype)
    tuned = LoraModel(model, LoraConfig(r=RANK, target_modules=["linear"]), NAMES[0])
    for name in NAMES[1:count]:
        tuned.peft_config[name] = LoraConfig(r=RANK, target_modules=["linear"])
        tuned.inject_adapter(tuned.model, name)
    layers = [module["linear"] for module in tuned.model.children()]
    parts = [[_fill(rng, layer, name, dtype) for name in NAMES[:count]] for layer in layers]
    weights = [float(w) for w in rng.choice(WEIGHTS, count)]
    return Adapted(tuned, layers, parts, weights)


def _fill(rng: np.random.Generator, layer: Any, name: str, dtype: str) -> Factors:
    a = lora.round_to(rng.standard_normal((RANK, layer.in_features)), dtype)
    b = lora.round_to(rng.standard_normal((layer.out_features, RANK)), dtype)
    factors = Factors(A=a, B=b, scaling=float(rng.choice(SCALINGS)))
    layer.lora_A[name].weight.data = to_torch(a, dtype)
    layer.lora_B[name].weight.data = to_torch(b, dtype)
    layer.scaling[name] = factors.scaling
    return factors


ORACLES = (mixtures, sums)
