"""Tests of the messages of the rules that compare the adapter with its manifest."""

from pathlib import Path

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from phi3_lora_qa.adapter.manifest import make_manifest, write_manifest
from tests.adapter.adapters import plain


def recorded(folder: Path) -> Path:
    plain().save(folder)
    (folder / "README.md").write_text("card")
    opened = AdapterFolder.open(folder)
    manifest = make_manifest(opened, base_id="tiny", seed=3, versions={}, final_losses={})
    write_manifest(folder, manifest)
    return folder


def messages(folder: Path) -> dict[str, str]:
    return {found.where: found.message for found in lint(AdapterFolder.open(folder)).findings}


def test_a_changed_an_added_and_a_missing_file_are_reported_differently(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    assert messages(folder) == {}
    config = folder / "adapter_config.json"
    config.write_text(config.read_text() + "\n")
    (folder / "added_tokens.json").write_text("{}")
    (folder / "README.md").unlink()
    found = messages(folder)
    assert found["adapter_config.json"] == (
        "the file changed since training: its hash differs from the manifest"
    )
    assert "was added after training" in found["added_tokens.json"]
    assert found["README.md"] == "the file is in the manifest, but missing from the folder"


def test_an_unreadable_manifest_has_the_readers_fix(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    (folder / "lora_qa_manifest.json").write_text('{"schema_version": 99}')
    (found,) = lint(AdapterFolder.open(folder)).findings
    assert found.rule == "manifest-unreadable"
    assert "again with this version of phi3-lora-qa" in found.fix
    assert found.fix not in found.message
