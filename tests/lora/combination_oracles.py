"""The results of PEFT's add_weighted_adapter, with reference and bound."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from phi3_lora_qa import lora
from phi3_lora_qa.lora import Factors, Mixture
from tests.lora.drawing import CASES, DTYPES, SCALINGS, cases, to_numpy, to_torch
from tests.lora.measuring import Measurement
from tests.lora.peft_oracles import several

WEIGHTS = (1.0, -0.5, 0.7, 2.0, -1.3, 1 / 3)
MIXTURES = {
    "linear": Mixture(),
    "ties": Mixture(kind="ties", density=0.6),
    "magnitude_prune": Mixture(kind="magnitude_prune", density=0.5),
    "dare_linear": Mixture(),
    "dare_ties": Mixture(kind="ties", majority="frequency"),
}
RANK = 3
NAMES = ("first", "second", "third")


@dataclass(frozen=True)
class Adapted:
    """A model in which every layer has the same number of drawn adapters.

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


def mixtures(dtype: str) -> Iterator[Measurement]:
    """Call what add_weighted_adapter calls for each layer, on single layers."""
    from peft.tuners.lora import LoraModel

    mixed = vars(LoraModel)["_generalized_task_arithmetic_weighted_adapter"]
    for number, (rng, case) in enumerate(cases(dtype, seed=30)):
        names = NAMES[: 2 + number % 2]
        layer, own = several(rng, case, dtype, names)
        weights = [float(w) for w in rng.choice(WEIGHTS, len(names))]
        for kind, mixture in MIXTURES.items():
            given = (kind, list(names), weights, layer, mixture.density, mixture.majority)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                a, b = (to_numpy(factor) for factor in mixed(None, *given))
            expected = lora.mix_factors(own, weights, mixture)
            bound = lora.mix_bound(own, weights, mixture, dtype)
            yield f"{kind} A", a, expected.A, bound.A
            yield f"{kind} B", b, expected.B, bound.B


def sums(dtype: str) -> Iterator[Measurement]:
    """Measure PEFT's "cat", and the first step of its "svd": the weighted sum of deltas."""
    import torch
    from peft.utils.merge_utils import task_arithmetic

    for count in (2, 3):
        adapted = build(dtype, count)
        weights = adapted.weights
        adapted.model.add_weighted_adapter(list(NAMES[:count]), weights, "cat", "cat")
        for own, layer in zip(adapted.parts, adapted.layers, strict=True):
            exact = lora.weighted_delta(own, weights)
            a, b = (to_numpy(part["cat"].weight) for part in (layer.lora_A, layer.lora_B))
            yield "cat", b @ a, exact, lora.concatenate_bound(own, weights, dtype)
            assert np.array_equal(b, lora.concatenate(own, weights).B)
            deltas = [layer.get_delta_weight(name) for name in NAMES[:count]]
            found = to_numpy(task_arithmetic(deltas, torch.tensor(weights)))
            yield "sum", found, exact, lora.weighted_delta_bound(own, weights, dtype)


def build(dtype: str, count: int) -> Adapted:
    """Build a model of linear layers of drawn sizes, each with its own case."""
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
