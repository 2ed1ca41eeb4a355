import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.manifest import changed_files, read_manifest
from phi3_lora_qa.data.training_data import load_training_data
from phi3_lora_qa.errors import BaseModelError, InputError
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.registry import base_fingerprint, bundled
from phi3_lora_qa.training import TrainResult, train
from phi3_lora_qa.training.labels import label_rows, stop_texts

SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def config_of(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_training_lowers_the_validation_loss_and_says_both(trained: TrainResult) -> None:
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


def test_losses_are_logged_every_so_many_steps_between_the_two_evaluations(
    trained: TrainResult,
) -> None:
    told = [(entry.kind, entry.step) for entry in trained.log]
    assert told == [("eval", 0), ("train", 2), ("train", 4), ("train", 6), ("eval", 6)]
    assert trained.log[0].loss == trained.loss_before
    assert trained.log[-1].loss == trained.loss_after


def test_the_folder_holds_what_peft_writes_the_tokenizer_the_card_and_the_manifest(
    trained: TrainResult,
) -> None:
    assert sorted(path.name for path in trained.adapter.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "lora_qa_manifest.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_config_names_the_base_by_its_id_and_no_machines_path(trained: TrainResult) -> None:
    assert config_of(trained.adapter)["base_model_name_or_path"] == "tiny"
    for path in trained.adapter.iterdir():
        assert str(bundled("tiny").parent).encode() not in path.read_bytes()


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


def test_the_saved_adapter_gives_the_base_the_loss_that_was_told(
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


def test_the_manifest_is_there_and_true(trained: TrainResult, rows: Path, tiny: LoadedBase) -> None:
    folder = AdapterFolder.open(trained.adapter)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert changed_files(folder, manifest) == ()
    assert manifest.files["adapter_model.safetensors"] == (
        hashlib.sha256(weights(trained.adapter)).hexdigest()
    )
    assert manifest.base_id == "tiny"
    assert manifest.base_fingerprint == base_fingerprint(tiny.ref)
    assert manifest.data_sha256 == load_training_data(rows).sha256
    assert len(manifest.scaling) == 4 * tiny.model.config.num_hidden_layers
    assert set(manifest.scaling.values()) == {2.0}
    assert manifest.seed == 0
    assert manifest.versions["peft"]
    assert manifest.final_losses == {
        "train": trained.train_loss,
        "eval": trained.loss_after,
        "eval_before": trained.loss_before,
    }


def test_the_card_says_what_it_is_from_what_and_how_to_gate_it(
    trained: TrainResult, rows: Path
) -> None:
    card = (trained.adapter / "README.md").read_text(encoding="utf-8")
    for part in (
        'base_model: "tiny"',
        load_training_data(rows).sha256,
        f"{trained.loss_before:.4f} before, {trained.loss_after:.4f} after",
        '"learning_rate": 0.003',
        '"lora_alpha": 8',
        "pytest --phi3-adapter",
        "36 to train, 4 to validate",
    ):
        assert part in card


def test_the_tokenizer_beside_the_adapter_is_the_bases_own(trained: TrainResult) -> None:
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (trained.adapter / name).read_bytes() == bundled(f"tiny/base/{name}").read_bytes()


def test_checkpoints_lie_beside_the_adapter(trained: TrainResult) -> None:
    assert [path.name for path in trained.checkpoints] == ["checkpoint-4", "checkpoint-6"]
    beside = trained.adapter.parent / "adapter-checkpoints"
    for path in trained.checkpoints:
        assert path.parent == beside
        assert (path / "adapter_model.safetensors").is_file()
        assert (path / "optimizer.pt").is_file()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapter_to_the_bit_and_another_seed_another(
    trained: TrainResult, train_tiny: Any, tmp_path: Path
) -> None:
    again = train_tiny(tmp_path / "again")
    other = train_tiny(tmp_path / "other", training={"seed": 1})
    assert weights(again.adapter) == weights(trained.adapter) != weights(other.adapter)
    assert config_of(again.adapter) == config_of(trained.adapter)
    assert again.log == trained.log


def test_training_says_nothing_on_its_own(
    train_tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train_tiny(tmp_path / "adapter", training={"max_steps": 2})
    assert capfd.readouterr() == ("", "")


def test_a_deliberate_choice_of_layers_trains_only_these(train_tiny: Any, tmp_path: Path) -> None:
    result = train_tiny(
        tmp_path / "adapter", training={"max_steps": 2}, peft={"target_modules": ["qkv_proj"]}
    )
    tensors = load_file(result.adapter / "adapter_model.safetensors")
    assert all("qkv_proj" in name for name in tensors)


def test_packed_rows_do_not_see_each_other(
    trained: TrainResult, train_tiny: Any, tmp_path: Path
) -> None:
    packed = train_tiny(
        tmp_path / "adapter", training={"packing": True, "max_length": 256, "max_steps": 1}
    )
    assert packed.loss_before == pytest.approx(trained.loss_before, rel=1e-5)


def test_evaluation_on_the_way_and_the_best_checkpoint_work(
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
    assert "evaluation_strategy was taken as eval_strategy" in result.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft": {"target_modules": SPLIT}}, '["qkv_proj", "o_proj", "gate_up_proj", "down_proj"'),
        ({"peft": {"target_modules": ["lm_head"]}}, "no linear layer of the base"),
        ({"peft": {"r": 0}}, "the trainer refuses these settings"),
        ({"training": {"learning_rate": 0.0}}, "training has changed nothing"),
        ({"training": {"learning_rate": 1e30}}, "no adapter is saved"),
        ({"training": {"lr_scheduler_type": "cosin"}}, "the trainer refuses these settings"),
        ({"training": {"max_length": 2}}, "raise training.max_length"),
        ({"attn_implementation": "fast"}, "the trainer refuses these settings"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_saved(
    train_tiny: Any, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        train_tiny(tmp_path / "adapter", **changes)
    assert says in str(caught.value)
    assert not (tmp_path / "adapter").exists()
    assert not list(tmp_path.glob(".adapter*"))


def test_a_base_that_is_unknown_is_refused(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="neither a known name nor an existing folder"):
        train("phi4", rows, {}, {}, tmp_path / "adapter")


def test_an_adapter_that_is_there_is_refused_before_anything_is_loaded(
    trained: TrainResult, rows: Path
) -> None:
    with pytest.raises(InputError, match="already holds files"):
        train("tiny", rows, {}, {}, trained.adapter)


def test_the_sources_dictionary_can_name_the_output(rows: Path, tmp_path: Path) -> None:
    result = train("tiny", rows, {"output_dir": str(tmp_path / "dir"), "max_steps": 1}, {"r": 2})
    assert result.adapter == tmp_path / "dir"
