import hashlib
import json
import stat
from pathlib import Path

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.manifest import changed_files, read_manifest
from phi3_lora_qa.data.training_data import load_training_data
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.registry import base_fingerprint, bundled
from phi3_lora_qa.training import TrainResult


def test_the_folder_has_pefts_files_the_tokenizer_the_card_and_the_manifest(
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


def test_the_manifest_matches_the_run(trained: TrainResult, rows: Path, tiny: LoadedBase) -> None:
    folder = AdapterFolder.open(trained.adapter)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert changed_files(folder, manifest) == ()
    assert manifest.files["adapter_model.safetensors"] == (
        hashlib.sha256((trained.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
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


def test_the_saved_tokenizer_is_the_bases_own(trained: TrainResult) -> None:
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (trained.adapter / name).read_bytes() == bundled(f"tiny/base/{name}").read_bytes()


def test_the_config_has_the_id_of_the_base_and_no_local_path(trained: TrainResult) -> None:
    text = (trained.adapter / "adapter_config.json").read_text(encoding="utf-8")
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "tiny"
    for path in trained.adapter.iterdir():
        assert str(bundled("tiny").parent).encode() not in path.read_bytes()


def test_the_weights_are_as_readable_as_the_card(trained: TrainResult) -> None:
    modes = {
        stat.S_IMODE((trained.adapter / name).stat().st_mode)
        for name in ("adapter_model.safetensors", "README.md")
    }
    assert len(modes) == 1
