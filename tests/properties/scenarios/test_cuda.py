"""The bounds also apply to a user's layer on a GPU. Skipped without one."""

from typing import Any

import pytest
import torch

from phi3_lora_qa.properties import TorchLayer, lora_properties
from phi3_lora_qa.properties.property_catalogue import all_properties
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from phi3_lora_qa.strategies import LayerCase, linear_cases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class Lora(torch.nn.Module):
    """A typical hand-written LoRA layer."""

    def __init__(self, case: LayerCase, dropout: float) -> None:
        super().__init__()
        out_features, in_features = case.weight.shape
        like: Any = {"dtype": getattr(torch, case.dtype), "device": "cuda"}
        self.base = torch.nn.Linear(
            in_features, out_features, bias=case.base_bias is not None, **like
        )
        self.base.requires_grad_(False)
        self.lora_A = torch.nn.Parameter(torch.randn(case.factors.rank, in_features, **like))
        self.lora_B = torch.nn.Parameter(torch.zeros(out_features, case.factors.rank, **like))
        self.scale, self.merged = case.factors.scaling, False
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        return (
            y if self.merged else y + self.dropout(x) @ self.lora_A.T @ self.lora_B.T * self.scale
        )

    def move(self, sign: float) -> None:
        self.base.weight.data += sign * self.scale * (self.lora_B.data @ self.lora_A.data)
        self.merged = sign > 0


class OnCuda(TorchLayer):
    def make_module(self, case: LayerCase, dropout: float) -> torch.nn.Module:
        return Lora(case, dropout)

    def parameter(self, part: str) -> torch.Tensor:
        module: Any = self.module
        return {"weight": module.base.weight, "base_bias": module.base.bias,
                "A": module.lora_A, "B": module.lora_B}[part]  # fmt: skip

    def merge(self) -> None:
        if not self.module.merged:
            self.module.move(1.0)  # type: ignore[operator]

    def unmerge(self) -> None:
        if self.module.merged:
            self.module.move(-1.0)  # type: ignore[operator]

    @classmethod
    def cases(cls) -> Any:
        return linear_cases()


@lora_properties(OnCuda, examples=200)
def test_a_layer_on_a_gpu_stays_within_the_bounds(check: Any) -> None:
    assert check().ratio <= 1.0


def test_tf32_exceeds_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    (prop,) = (p for p in all_properties() if p.id == "forward_adds_the_delta")
    with pytest.raises(PropertyFailed, match="the output is off by"):
        run_property(prop, OnCuda, examples=200, shrink=False)
