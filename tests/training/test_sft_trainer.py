from types import SimpleNamespace
from typing import Any

import pytest
from peft import LoraConfig

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.sft_trainer import LocalTrainer, Watcher, _make_config_reproducible
from phi3_lora_qa.training.training_progress import LogEntry, TrainingCallbacks


def state(step: int = 2, steps: int = 6) -> Any:
    return SimpleNamespace(global_step=step, max_steps=steps)


def test_the_watcher_records_training_and_validation_losses() -> None:
    seen: list[LogEntry] = []
    watcher = Watcher(TrainingCallbacks(on_log=seen.append))
    watcher.on_log(None, state(), None, logs={"loss": 1.5, "learning_rate": 1e-3})
    watcher.on_log(None, state(), None, logs={"eval_loss": 1.25})
    watcher.on_log(None, state(), None, logs={"train_runtime": 3.0})
    assert watcher.entries == seen
    assert [(entry.kind, entry.loss) for entry in seen] == [("train", 1.5), ("eval", 1.25)]


def test_the_watcher_reports_steps() -> None:
    seen: list[tuple[str, int, int]] = []
    watcher = Watcher(TrainingCallbacks(on_progress=lambda *call: seen.append(call)))
    watcher.on_step_end(None, state(), None)
    assert seen == [("training", 2, 6)]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_training(loss: float) -> None:
    watcher = Watcher(TrainingCallbacks())
    with pytest.raises(InputError, match=r"at step 2, so training has failed"):
        watcher.on_log(None, state(), None, logs={"loss": loss})
    assert watcher.entries == []


def test_the_saved_config_is_the_same_on_every_machine_and_in_every_run() -> None:
    config = LoraConfig(target_modules=["o_proj", "down_proj", "qkv_proj"])
    config.base_model_name_or_path = "/some/folder"
    model = SimpleNamespace(peft_config={"default": config})
    trainer: Any = SimpleNamespace(model=model)
    _make_config_reproducible(trainer, "tiny")
    assert config.base_model_name_or_path == "tiny"
    assert config.target_modules == ["down_proj", "o_proj", "qkv_proj"]


def test_telemetry_is_replaced() -> None:
    from trl.trainer.sft_trainer import SFTTrainer

    assert LocalTrainer._send_telemetry is not SFTTrainer._send_telemetry
