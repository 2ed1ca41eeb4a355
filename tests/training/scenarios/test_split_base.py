"""Training on a Phi-3 in Llama's layout writes an adapter that its own base accepts."""

from pathlib import Path

import pytest

from phi3_lora_qa.lint_adapter import lint_adapter
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.training.train import train
from tests.split_layout import write_split_base

SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_an_adapter_of_the_split_projections_is_trained(
    model_type: str, rows: Path, tmp_path: Path
) -> None:
    base = write_split_base(bundled("tiny/base"), tmp_path / "base", model_type)
    steps = {"max_steps": 6, "learning_rate": 2e-3, "max_length": 128, "logging_steps": 2}
    peft = {"r": 4, "lora_alpha": 8, "target_modules": SPLIT, "task_type": "CAUSAL_LM"}
    train(base, rows, steps, peft, tmp_path / "adapter")
    report = lint_adapter(tmp_path / "adapter", base)
    assert report.accepted
    assert {finding.rule for finding in report.findings} <= {"config-machine-path"}
