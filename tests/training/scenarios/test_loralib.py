"""Training with loralib's layers: what is trained and saved; the linter accepts the adapter."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from phi3_lora_qa.adapter.manifest import changed_files, read_manifest
from phi3_lora_qa.data.training_data import load_training_data
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.loralib_interop import load_lora_state, read_checkpoint, replace_layers
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.training import TrainResult, train_from_config
from phi3_lora_qa.training.check_job import check_job
from phi3_lora_qa.training.training_config import TrainConfig, config_from_tables
from phi3_lora_qa.training.training_output import TrainingFolders
from phi3_lora_qa.training.training_progress import TrainingCallbacks
from phi3_lora_qa.training.training_run import run_training

pytestmark = pytest.mark.slow

MASKS = {"qkv_proj": {"q": True, "k": False, "v": True}}
TRAINING = {
    "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "logging_steps": 2,
    "save_steps": 4, "warmup_steps": 0,
}  # fmt: skip

Configure = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def configure(rows: Path) -> Configure:
    def tables(output: Path, **changes: Any) -> TrainConfig:
        content = {
            "model": {"base": "tiny"},
            "data": {"train": rows},
            "training": TRAINING | changes.pop("training", {}),
            "peft": {"r": 3, "lora_alpha": 8} | changes.pop("peft", {}),
            "engine": {"name": "loralib", "masks": MASKS},
            "output": {"dir": output},
        }
        return config_from_tables(content | changes, "a test")

    return tables


@pytest.fixture(scope="session")
def by_loralib(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train_from_config(configure(tmp_path_factory.mktemp("loralib") / "adapter"))


def test_the_loss_falls_and_only_the_factors_are_counted(by_loralib: TrainResult) -> None:
    assert by_loralib.loss_after < by_loralib.loss_before - 0.3
    held = load_file(by_loralib.adapter / "loralib.safetensors")
    assert by_loralib.trainable_parameters == sum(tensor.numel() for tensor in held.values())


def test_training_changes_the_factors_but_no_bit_of_the_base(
    configure: Configure, tiny: LoadedBase, tmp_path: Path, rows: Path
) -> None:
    job = check_job(configure(tmp_path / "adapter"))
    folders = TrainingFolders(
        adapter=tmp_path, staging=tmp_path, checkpoints=tmp_path / "checkpoints", resume_from=None
    )
    trained = run_training(job, load_training_data(rows), folders, TrainingCallbacks())
    moved = dict(trained.model.named_parameters())
    for name, weight in tiny.model.named_parameters():
        assert torch.equal(moved.pop(name), weight), name
    assert all(name.endswith(("lora_A", "lora_B")) for name in moved)
    assert all(tensor.any() for tensor in moved.values())


def test_both_formats_the_tokenizer_the_card_and_the_manifest_are_saved(
    by_loralib: TrainResult,
) -> None:
    assert sorted(path.name for path in by_loralib.adapter.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "lora_qa_manifest.json",
        "loralib.json",
        "loralib.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    folder = AdapterFolder.open(by_loralib.adapter)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert changed_files(folder, manifest) == ()
    assert "loralib" in manifest.versions
    assert manifest.scaling["model.layers.0.self_attn.qkv_proj"] == 8 / 3
    assert '"name": "loralib"' in (by_loralib.adapter / "README.md").read_text(encoding="utf-8")


def test_the_linter_accepts_the_adapter_against_its_base(by_loralib: TrainResult) -> None:
    folder = AdapterFolder.open(by_loralib.adapter)
    report = lint(folder, BaseFiles.open(bundled("tiny/base")))
    assert report.accepted, report.findings
    assert not [f for f in report.findings if f.severity == "warning"]


def test_the_peft_adapter_has_the_logits_of_the_loralib_checkpoint(
    by_loralib: TrainResult, tiny: LoadedBase
) -> None:
    ids = torch.tensor([[1, 17, 203, 55, 9, 400]])
    checkpoint = read_checkpoint(by_loralib.adapter / "loralib.safetensors")
    theirs: Any = copy.deepcopy(tiny.model)
    replace_layers(theirs, checkpoint.layers or ())
    assert load_lora_state(theirs, checkpoint.tensors).complete
    with torch.no_grad():
        base, tuned = tiny.model(ids).logits, attach(tiny.model, by_loralib.adapter)(ids).logits
        error = (theirs(ids).logits - tuned).abs().max()
    # Bounds of each layer and logit: tests/loralib_interop/test_peft_conversion.py.
    assert error < 1e-4
    assert (tuned - base).abs().max() > 0.5


def test_a_masked_block_has_no_delta(by_loralib: TrainResult) -> None:
    tensors = load_file(by_loralib.adapter / "adapter_model.safetensors")
    b = tensors["base_model.model.model.layers.0.self_attn.qkv_proj.lora_B.weight"]
    assert b.shape == (192, 3 * 3)
    assert not b[96:144].any()
    assert b[:96].any()
    assert b[144:].any()


def test_the_same_config_gives_the_same_bytes_also_when_resumed(
    configure: Configure, by_loralib: TrainResult, tmp_path: Path
) -> None:
    stopped = configure(tmp_path / "adapter", training={"save_steps": 3})
    first = train_from_config(stopped)
    weights = (first.adapter / "loralib.safetensors").read_bytes()
    assert weights == (by_loralib.adapter / "loralib.safetensors").read_bytes()
    again = configure(
        tmp_path / "again",
        training={"resume_from_checkpoint": str(first.checkpoints[0])},
    )
    assert first.checkpoints[0].name == "checkpoint-3"
    resumed = train_from_config(again)
    assert (resumed.adapter / "loralib.safetensors").read_bytes() == weights


def test_the_engine_can_be_chosen_in_python(train_tiny: Any, tmp_path: Path) -> None:
    result = train_tiny(tmp_path / "adapter", training={"max_steps": 1}, engine={"name": "loralib"})
    assert (result.adapter / "loralib.safetensors").is_file()


def test_the_best_checkpoint_is_loaded_at_the_end(configure: Configure, tmp_path: Path) -> None:
    result = train_from_config(
        configure(
            tmp_path / "adapter",
            training={
                "max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2,
                "load_best_model_at_end": True,
            },
        )
    )  # fmt: skip
    best = min(result.checkpoints, key=evaluated)
    assert (best / "loralib.safetensors").read_bytes() == (
        result.adapter / "loralib.safetensors"
    ).read_bytes()


def evaluated(checkpoint: Path) -> float:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return float([e["eval_loss"] for e in state["log_history"] if "eval_loss" in e][-1])


def test_gradient_checkpointing_trains_the_same_factors(
    configure: Configure, by_loralib: TrainResult, tmp_path: Path
) -> None:
    result = train_from_config(
        configure(tmp_path / "adapter", training={"gradient_checkpointing": True})
    )
    assert result.loss_after == pytest.approx(by_loralib.loss_after, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft": {"use_dora": True}}, "loralib does not support 'use_dora'"),
        ({"peft": {"rank_pattern": {"o_proj": 2}}}, "loralib does not support 'rank_pattern'"),
        ({"peft": {"bias": "all"}}, 'set bias = "none"'),
        ({"peft": {"target_modules": ["q_proj"]}}, 'use target_modules = ["qkv_proj"]'),
        ({"engine": {"name": "loralib", "masks": {"qkv_proj": {"q": True}}}}, "lacks the block k"),
        ({"engine": {"name": "loralib", "masks": {"mlp": [True]}}}, "matches no layer; remove"),
        ({"engine": {"masks": MASKS}}, "for loralib's MergedLinear"),
    ],
)
def test_a_setting_that_loralib_lacks_is_rejected_and_nothing_is_saved(
    configure: Configure, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        train_from_config(configure(tmp_path / "adapter", **changes))
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []
