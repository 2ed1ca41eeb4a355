"""Configs of other programs and of other types are recognised; PEFT's own never are."""

from typing import Any

import pytest

from phi3_lora_qa.adapter.identity.format_by_config import format_by_config, is_peft_lora
from phi3_lora_qa.adapter.identity.peft_types import OTHER_TYPES
from tests.adapter.adapters import base_config, old_config

MLX = {"rank": 8, "scale": 20.0, "dropout": 0.0}


@pytest.mark.parametrize(
    ("config", "kind", "fix"),
    [
        ({"fine_tune_type": "lora", "lora_parameters": MLX}, "mlx-lm", "convert mlx-to-peft"),
        ({"lora_parameters": MLX}, "mlx-lm", "convert mlx-to-peft"),
        ({"lora_layers": 16, "model": "x"}, "mlx-lm", "convert mlx-to-peft"),
        (
            {"fine_tune_type": "full", "num_layers": 4},
            "completely trained",
            "--fine-tune-type lora",
        ),
        ({"rank": 8, "alpha": 16, "dropout": 0.1}, "mlx-vlm", "train again"),
        ({"config": {"r": 8}, "model_name": "x"}, "AdapterHub", "train again"),
        ({"architectures": ["X"], "model_type": "phi3"}, "complete model", "before it was merged"),
        ({"dim": 8, "targets": []}, "another program", "train again"),
        ({"peft_type": "FUTURE_LORA"}, "FUTURE_LORA", "train again"),
        ({"peft_type": "XLORA"}, "XLORA", "each of the LoRA adapters"),
        ({"peft_type": "LOHA", "r": 8}, "LOHA", "peft.save_as_lora"),
        ({"peft_type": "IA3"}, "scales of activations", "only LoRA"),
    ],
)
def test_another_format_is_named_with_the_way_to_peft(
    config: dict[str, Any], kind: str, fix: str
) -> None:
    found = format_by_config(config)
    assert found is not None
    assert kind in f"{found.kind}: {found.found}"
    assert fix in found.fix


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_every_other_type_of_peft_is_named(kind: str) -> None:
    found = format_by_config(base_config() | {"peft_type": kind})
    assert found is not None
    assert kind in found.kind
    assert not is_peft_lora({"peft_type": kind})


@pytest.mark.parametrize(
    "config",
    [base_config(), old_config("0.5"), {}, {"r": 8}, {"target_modules": "all-linear"},
     {"peft_type": "lora"}, {"peft_type": None}, {"peft_type": 5},
     {"peft_type": "LORA", "rank": 8}],
)  # fmt: skip
def test_what_may_be_pefts_lora_is_left_to_the_other_rules(config: dict[str, Any]) -> None:
    assert format_by_config(config) is None
