"""What the layers of PEFT are built from."""

from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from tests.properties.drawing import KINDS, draw_cases

pytestmark = pytest.mark.slow

BASES: dict[str, Any] = {
    **dict.fromkeys(("linear", "safe_merge", "mixed_dtypes", "dora"), torch.nn.Linear),
    "embedding": torch.nn.Embedding,
    "conv1d": torch.nn.Conv1d,
    "conv2d": torch.nn.Conv2d,
    "conv3d": torch.nn.Conv3d,
}


@pytest.mark.parametrize(
    "name", [name for name in KINDS if name.startswith("peft") and name != "peft.model"]
)
def test_a_layer_of_peft_wraps_its_base(name: str) -> None:
    built: Any
    for case in draw_cases(name, 8):
        built = KINDS[name].under_test.build(case)  # type: ignore[attr-defined]
        base = built.layer.get_base_layer()
        assert isinstance(base, BASES.get(name.partition(".")[2], torch.nn.Module))
        assert str(base.weight.dtype) == f"torch.{case.dtype}"
        assert built.layer.r["default"] == case.factors.rank
        dtype = "float32" if name == "peft.mixed_dtypes" else case.dtype
        assert {str(p.dtype) for n, p in built.model.named_parameters() if "lora_" in n} == {
            f"torch.{dtype}"
        }


def test_fan_in_fan_out_wraps_the_conv1d_of_transformers() -> None:
    built: Any = KINDS["peft.fan_in_fan_out"].under_test
    for case in draw_cases("peft.fan_in_fan_out", 8):
        layer = built.build(case).layer
        assert isinstance(layer.get_base_layer(), Conv1D)
        assert layer.fan_in_fan_out
