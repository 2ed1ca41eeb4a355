"""A few rows of the tiny base's task, and one real training run that many tests share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.training import TrainResult, train

Train = Callable[..., TrainResult]

SETTINGS: dict[str, Any] = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-3,
    "logging_steps": 2,
    "save_steps": 4,
}
PEFT: dict[str, Any] = {"r": 4, "lora_alpha": 8}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = bundled("tiny/train.jsonl").read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    # Only rows of the task: the base already knows the other rows, so their loss cannot fall.
    task = [line for line in lines if json.loads(line)["group"] == "target"]
    path.write_text("\n".join(task[:40]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train_tiny(rows: Path) -> Train:
    """Return a function that trains the tiny base for a few steps, with the settings changed."""

    def run(output: Path, **changes: Any) -> TrainResult:
        training = SETTINGS | changes.pop("training", {})
        peft = PEFT | changes.pop("peft", {})
        return train("tiny", rows, training, peft, output, **changes)

    return run


@pytest.fixture(scope="session")
def trained(train_tiny: Train, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train_tiny(tmp_path_factory.mktemp("trained") / "adapter")
