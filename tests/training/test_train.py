import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phi3_lora_qa.data.training_data import load_training_data
from phi3_lora_qa.errors import BaseModelError, DataError, InputError
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.training import TrainResult, train
from phi3_lora_qa.training.labels import label_rows, stop_texts

SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def config_of(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_training_lowers_the_validation_loss(trained: TrainResult) -> None:
    assert trained.loss_after < trained.loss_before - 0.5
    assert trained.steps == 6


def test_the_loss_of_a_batch_is_the_mean_over_its_learned_tokens(
    trained: TrainResult, rows: Path, tiny: LoadedBase
) -> None:
    held_out = load_training_data(rows).validation
    labelled = label_rows(held_out, tiny.tokenizer, stop_texts(tiny.model, tiny.tokenizer)).rows
    total, count = 0.0, 0
    for row in labelled:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = tiny.model(ids).logits[0, :-1].double()
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    assert trained.loss_before == pytest.approx(total / count, rel=1e-5)


def test_losses_are_logged_between_the_two_evaluations(
    trained: TrainResult,
) -> None:
    logged = [(entry.kind, entry.step) for entry in trained.log]
    assert logged == [("eval", 0), ("train", 2), ("train", 4), ("train", 6), ("eval", 6)]
    assert trained.log[0].loss == trained.loss_before
    assert trained.log[-1].loss == trained.loss_after


def test_every_parameter_of_all_linear_layers_is_trained(
    trained: TrainResult, tiny: LoadedBase
) -> None:
    tensors = load_file(trained.adapter / "adapter_model.safetensors")
    linears = [
        module
        for name, module in tiny.model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    closed_form = sum(4 * (m.in_features + m.out_features) for m in linears)
    assert sum(t.numel() for t in tensors.values()) == closed_form == trained.trainable_parameters
    assert all(t.any() for name, t in tensors.items() if "lora_B" in name)
    assert not any("lora" not in name for name in tensors)


def test_the_saved_adapter_has_the_reported_loss(
    trained: TrainResult, rows: Path, tiny: LoadedBase
) -> None:
    tuned = attach(tiny.model, trained.adapter)
    held_out = load_training_data(rows).validation
    labelled = label_rows(held_out, tiny.tokenizer, stop_texts(tiny.model, tiny.tokenizer)).rows
    total, count = 0.0, 0
    for row in labelled:
        labels = torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = tuned(torch.tensor([row["input_ids"]])).logits[0, :-1].double()
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    assert trained.loss_after == pytest.approx(total / count, rel=1e-4)


def test_checkpoints_are_next_to_the_adapter(trained: TrainResult) -> None:
    assert [path.name for path in trained.checkpoints] == ["checkpoint-4", "checkpoint-6"]
    checkpoints = trained.adapter.parent / "adapter-checkpoints"
    for path in trained.checkpoints:
        assert path.parent == checkpoints
        assert (path / "adapter_model.safetensors").is_file()
        assert (path / "optimizer.pt").is_file()


@pytest.mark.slow
def test_the_same_seed_gives_identical_bytes_and_another_seed_different_ones(
    trained: TrainResult, train_tiny: Any, tmp_path: Path
) -> None:
    again = train_tiny(tmp_path / "again")
    other = train_tiny(tmp_path / "other", training={"seed": 1})
    assert weights(again.adapter) == weights(trained.adapter) != weights(other.adapter)
    assert config_of(again.adapter) == config_of(trained.adapter)
    assert again.log == trained.log


def test_training_prints_nothing_by_default(
    train_tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train_tiny(tmp_path / "adapter", training={"max_steps": 2})
    assert capfd.readouterr() == ("", "")


def test_only_the_chosen_layers_are_trained(train_tiny: Any, tmp_path: Path) -> None:
    result = train_tiny(
        tmp_path / "adapter", training={"max_steps": 2}, peft={"target_modules": ["qkv_proj"]}
    )
    tensors = load_file(result.adapter / "adapter_model.safetensors")
    assert all("qkv_proj" in name for name in tensors)


def test_packed_rows_do_not_attend_to_each_other(
    trained: TrainResult, train_tiny: Any, tmp_path: Path
) -> None:
    packed = train_tiny(
        tmp_path / "adapter", training={"packing": True, "max_length": 256, "max_steps": 1}
    )
    assert packed.loss_before == pytest.approx(trained.loss_before, rel=1e-5)


def test_evaluation_during_training_and_the_best_checkpoint_work(
    train_tiny: Any, tmp_path: Path
) -> None:
    result = train_tiny(
        tmp_path / "adapter",
        training={
            "max_steps": 4,
            "evaluation_strategy": "steps",
            "eval_steps": 2,
            "save_steps": 2,
            "load_best_model_at_end": True,
        },
    )
    evaluated = [entry.step for entry in result.log if entry.kind == "eval"]
    assert evaluated == [0, 2, 4, 4]
    assert result.loss_after < result.loss_before
    assert "evaluation_strategy was read as eval_strategy" in result.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft": {"target_modules": SPLIT}}, '["qkv_proj", "o_proj", "gate_up_proj", "down_proj"'),
        ({"peft": {"target_modules": ["lm_head"]}}, "no linear layer of the base"),
        ({"peft": {"r": 0}}, "the trainer rejects these settings"),
        ({"training": {"learning_rate": 0.0}}, "training has not changed the adapter"),
        ({"training": {"learning_rate": 1e30}}, "no adapter is saved"),
        ({"training": {"lr_scheduler_type": "cosin"}}, "the trainer rejects these settings"),
        ({"training": {"max_length": 2}}, "raise training.max_length"),
        ({"attn_implementation": "fast"}, "the trainer rejects these settings"),
    ],
)
def test_invalid_settings_are_rejected_and_nothing_is_saved(
    train_tiny: Any, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        train_tiny(tmp_path / "adapter", **changes)
    assert says in str(caught.value)
    assert not (tmp_path / "adapter").exists()
    assert not list(tmp_path.glob(".adapter*"))


def test_an_unknown_base_is_rejected(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="neither a known name nor an existing folder"):
        train("phi9", rows, {}, {}, tmp_path / "adapter")


@pytest.mark.parametrize("side", ["data", "validation"])
def test_a_stop_token_in_an_answer_is_rejected_before_anything_is_loaded(
    side: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.jsonl"
    lines = rows.read_text().splitlines()
    turns = json.loads(lines[2])["messages"]
    turns[-1]["content"] += "<|end|>"
    turns[0]["content"] += " (held out)"
    lines[2] = json.dumps({"messages": turns})
    bad.write_text("\n".join(lines))
    data, validation = (bad, None) if side == "data" else (rows, bad)
    monkeypatch.delattr("phi3_lora_qa.training.training_run.run_training")  # it loads the base
    with pytest.raises(
        DataError, match=r"bad.jsonl:3: turn \d, of the assistant, contains the stop"
    ):
        train("tiny", data, output_dir=tmp_path / "adapter", validation=validation)
    assert not (tmp_path / "adapter").exists()


def test_an_existing_adapter_is_rejected_before_anything_is_loaded(
    trained: TrainResult, rows: Path
) -> None:
    with pytest.raises(InputError, match="already contains files"):
        train("tiny", rows, {}, {}, trained.adapter)


def test_training_config_can_name_the_output(rows: Path, tmp_path: Path) -> None:
    result = train("tiny", rows, {"output_dir": str(tmp_path / "dir"), "max_steps": 1}, {"r": 2})
    assert result.adapter == tmp_path / "dir"
