"""Training resumed from a checkpoint ends as training without an interruption does."""

import json
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training import TrainResult

pytestmark = pytest.mark.slow

# Dropout draws random numbers in each step, gradients accumulate over two batches, the learning
# rate changes, and the checkpoint is in the middle of an epoch of 36 rows.
TRAINING: dict[str, Any] = {
    "max_steps": 8,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "save_steps": 3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
}
PEFT: dict[str, Any] = {"lora_dropout": 0.3}


@pytest.fixture(scope="module")
def whole(train_tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Eight steps without an interruption."""
    folder = tmp_path_factory.mktemp("whole") / "adapter"
    result: TrainResult = train_tiny(folder, training=TRAINING, peft=PEFT)
    assert [path.name for path in result.checkpoints] == [
        "checkpoint-3",
        "checkpoint-6",
        "checkpoint-8",
    ]
    return result


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("checkpoint", [0, 1])
def test_resumed_training_has_the_same_losses_and_ends_with_the_same_bytes(
    whole: TrainResult, train_tiny: Any, tmp_path: Path, checkpoint: int
) -> None:
    start = whole.checkpoints[checkpoint]
    resumed = train_tiny(
        tmp_path / "resumed",
        training={**TRAINING, "resume_from_checkpoint": str(start)},
        peft=PEFT,
    )
    done = int(start.name.partition("-")[2])
    assert [e for e in resumed.log if e.step] == [e for e in whole.log if e.step > done]
    assert resumed.loss_before == whole.loss_before
    assert weights(resumed.adapter) == weights(whole.adapter)


def test_without_the_saved_random_state_the_result_differs(
    whole: TrainResult, train_tiny: Any, tmp_path: Path
) -> None:
    start = whole.checkpoints[0]
    forgetful = tmp_path / start.name
    shutil.copytree(start, forgetful)
    (forgetful / "rng_state.pth").unlink()
    resumed = train_tiny(
        tmp_path / "resumed",
        training={**TRAINING, "resume_from_checkpoint": str(forgetful)},
        peft=PEFT,
    )
    assert weights(resumed.adapter) != weights(whole.adapter)


def test_a_stopped_run_resumes_in_its_own_folder(
    whole: TrainResult, train_tiny: Any, tmp_path: Path
) -> None:
    output = tmp_path / "adapter"
    first = train_tiny(output, training={**TRAINING, "save_total_limit": 3}, peft=PEFT)
    # As if it had been stopped in step 5: no adapter, and one complete checkpoint.
    for path in (first.adapter, *first.checkpoints[1:]):
        path.rename(tmp_path / f"gone-{path.name}")
    resumed = train_tiny(output, training={**TRAINING, "resume_from_checkpoint": True}, peft=PEFT)
    assert weights(resumed.adapter) == weights(whole.adapter)


@pytest.mark.parametrize(
    ("peft", "says"),
    [
        ({"r": 8}, "was trained with r = 4, not 8; restore that setting"),
        ({"lora_alpha": 32}, "was trained with lora_alpha = 8, not 32"),
        ({"lora_dropout": 0.0}, "was trained with lora_dropout = 0.3, not 0.0"),
        ({"use_dora": True}, "was trained with use_dora = False, not True"),
        ({"target_modules": ["qkv_proj"]}, "was trained with target_modules = "),
    ],
)
def test_a_checkpoint_of_another_adapter_is_rejected_with_the_setting_that_differs(
    whole: TrainResult, train_tiny: Any, tmp_path: Path, peft: dict[str, Any], says: str
) -> None:
    resume = {**TRAINING, "resume_from_checkpoint": str(whole.checkpoints[0])}
    with pytest.raises(InputError) as caught:
        train_tiny(tmp_path / "adapter", training=resume, peft=PEFT | peft)
    assert says in str(caught.value)
    assert str(caught.value).endswith("or remove training.resume_from_checkpoint")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("content", [None, "{"])
def test_a_checkpoint_without_a_config_is_rejected(
    whole: TrainResult, train_tiny: Any, tmp_path: Path, content: str | None
) -> None:
    broken = tmp_path / "checkpoint-3"
    broken.mkdir()
    (broken / "trainer_state.json").write_text(json.dumps({}))
    if content is not None:
        (broken / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=r"cannot read adapter_config\.json of the checkpoint"):
        train_tiny(
            tmp_path / "adapter",
            training={**TRAINING, "resume_from_checkpoint": str(broken)},
            peft=PEFT,
        )


def test_a_checkpoint_never_runs_code(whole: TrainResult, train_tiny: Any, tmp_path: Path) -> None:
    import torch

    spoilt = tmp_path / "checkpoint-3"
    shutil.copytree(whole.checkpoints[0], spoilt)
    torch.save(Touch(tmp_path / "ran"), spoilt / "optimizer.pt")
    with pytest.raises(UnpicklingError):
        train_tiny(
            tmp_path / "adapter",
            training={**TRAINING, "resume_from_checkpoint": str(spoilt)},
            peft=PEFT,
        )
    assert not (tmp_path / "ran").exists()


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))
