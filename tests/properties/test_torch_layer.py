"""A torch module as a layer under test: values, training mode, and missing parameters."""

from typing import Any

import numpy as np
import pytest
import torch

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Factors, output
from phi3_lora_qa.properties.torch_layer import TorchLayer
from phi3_lora_qa.strategies import LayerCase

A, B = np.array([[1.0, 2.0]]), np.array([[1.0], [-1.0], [0.5]])
CASE = LayerCase(
    dtype="float32",
    weight=np.arange(6.0).reshape(3, 2),
    base_bias=None,
    factors=Factors(A=A, B=B, scaling=2.0),
    alpha=2.0,
    rslora=False,
    x=np.array([[1.0, -1.0], [0.5, 3.0]]),
)


class Module(torch.nn.Module):
    def __init__(self, case: LayerCase, dropout: float) -> None:
        super().__init__()
        out_features, in_features = case.weight.shape
        self.base = torch.nn.Linear(in_features, out_features, bias=False).requires_grad_(False)
        self.lora_A = torch.nn.Linear(in_features, case.factors.rank, bias=False)
        self.lora_B = torch.nn.Linear(case.factors.rank, out_features, bias=False)
        self.dropout, self.scaling = torch.nn.Dropout(dropout), case.factors.scaling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        return y + self.scaling * self.lora_B(self.lora_A(self.dropout(x)))


class ModuleLayer(TorchLayer):
    def make_module(self, case: LayerCase, dropout: float) -> torch.nn.Module:
        return Module(case, dropout)

    def parameter(self, part: str) -> torch.Tensor:
        module: Any = self.module
        return {"weight": module.base, "A": module.lora_A, "B": module.lora_B}[part].weight


def test_a_built_layer_contains_the_case_and_computes_the_reference() -> None:
    layer = ModuleLayer.build(CASE)
    assert layer.weight().tolist() == CASE.weight.tolist()
    assert layer.factors().A.tolist() == A.tolist()
    assert layer.factors().B.tolist() == B.tolist()
    assert layer.forward(CASE.x).tolist() == output(CASE.weight, CASE.factors, CASE.x).tolist()
    assert layer.output_dtype(CASE.x, "float32") == "float32"


def test_initialized_factors_are_the_same_each_time_and_leave_torchs_generator() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (ModuleLayer.build_initialized(CASE).factors().A for _ in range(2))
    assert first.tolist() == second.tolist() != A.tolist()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gradients_are_those_of_the_adapter_and_the_base_has_none() -> None:
    layer = ModuleLayer.build(CASE)
    found = layer.gradients(CASE.x, np.ones((2, 3)))
    assert found.A is not None
    assert found.A.tolist() == (2.0 * B.sum() * CASE.x.sum(axis=0))[None].tolist()
    assert (found.magnitude, found.bias, found.frozen) == (None, None, ())
    assert layer.trainable_base_parameters() == ()
    layer.module.base.requires_grad_(True)
    assert layer.trainable_base_parameters() == ("base.weight",)
    assert layer.gradients(CASE.x, np.ones((2, 3))).frozen == ("base.weight",)
    assert not layer.module.training


def test_dropout_applies_only_in_training_mode() -> None:
    layer = ModuleLayer.build_with_dropout(CASE, 1.0)
    expected = output(CASE.weight, CASE.factors, CASE.x)
    assert layer.forward(CASE.x).tolist() == expected.tolist()
    layer.train()
    assert layer.forward(CASE.x).tolist() == (CASE.x @ CASE.weight.T).tolist()
    layer.eval()
    assert layer.forward(CASE.x).tolist() == expected.tolist()


def test_a_missing_parameter_is_named_with_a_fix() -> None:
    layer = ModuleLayer.build(CASE)
    with pytest.raises(InputError, match=r"ModuleLayer has no parameter 'bias' .*; return it from"):
        layer.fill("bias", np.zeros(3))
