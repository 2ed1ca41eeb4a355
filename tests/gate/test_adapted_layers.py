"""Adapted modules: which ones PEFT adapts, and the norm of their weights."""

import numpy as np
import pytest
from numpy.typing import NDArray

from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.gate.adapted_layers import LoraLayer
from phi3_lora_qa.lora import Factors
from phi3_lora_qa.models.quiet import quiet
from tests.gate.builders import MakeSession, with_factors


def test_factors_that_peft_does_not_adapt_are_named(make_session: MakeSession) -> None:
    session = make_session()
    stray = dict(session.adapter.factors)
    stray["model.layers.9.mlp.down_proj"] = next(iter(stray.values()))
    with quiet(), pytest.raises(AdapterError, match=r"layers\.9"):
        with_factors(session, stray).list_lora_layers()


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (1, 5), (5, 1), (2, 2)])
def test_the_norm_of_a_weight_is_bounded_from_below(shape: tuple[int, int]) -> None:
    weights = np.random.default_rng(0).standard_normal((20, *shape))
    for weight in weights:
        found, norm = _layer_with(weight).base_norm(), np.linalg.norm(weight, 2)
        assert 0.8 * norm <= found <= norm * (1 + 1e-5)
    thin = np.outer(np.arange(1.0, 5.0), np.arange(2.0, 9.0))
    assert _layer_with(thin).base_norm() == pytest.approx(np.linalg.norm(thin, 2), rel=1e-5)
    assert _layer_with(np.zeros(shape)).base_norm() == 0.0


def _layer_with(weight: NDArray[np.float64]) -> LoraLayer:
    import torch
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear

    out, inside = weight.shape
    base = torch.nn.Linear(inside, out, bias=False)
    base.weight.data = torch.from_numpy(weight).float()
    factors = Factors(A=weight[:1], B=weight[:, :1], scaling=1.0)
    return LoraLayer("one", factors, Linear(base, "default", LoraConfig(r=1), r=1), "default")
