import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import MANIFEST, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, lint
from phi3_lora_qa.adapter.manifest import (
    Manifest,
    changed_files,
    make_manifest,
    read_manifest,
    write_manifest,
)
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import Adapter, plain
from tests.adapter.healthy import dora, rank_pattern
from tests.adapter.tiny_base import tokenizer_files, write_base


def signed(adapter: Adapter, folder: Path) -> Manifest:
    adapter.save(folder)
    (folder / "README.md").write_text("card")
    manifest = make_manifest(
        AdapterFolder.open(folder),
        base_id="tiny",
        seed=3,
        versions={"peft": "0.21.2"},
        final_losses={"train": 0.5},
    )
    write_manifest(folder, manifest)
    return manifest


def linted(folder: Path) -> LintReport:
    return lint(AdapterFolder.open(folder))


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = signed(plain(), tmp_path)
    folder = AdapterFolder.open(tmp_path)
    assert read_manifest(folder) == manifest
    assert changed_files(folder, manifest) == ()
    assert MANIFEST not in manifest.files
    assert {p.name for p in tmp_path.iterdir()} == {*manifest.files, MANIFEST}


def test_a_manifest_records_the_scaling_of_every_module(tmp_path: Path) -> None:
    manifest = signed(rank_pattern(), tmp_path)
    assert len(manifest.scaling) == 8
    assert manifest.scaling["model.layers.0.self_attn.o_proj"] == 16 / 2
    assert manifest.scaling["model.layers.1.mlp.down_proj"] == 8 / 6


def test_an_unchanged_folder_is_accepted(tmp_path: Path) -> None:
    adapter = dora()
    adapter.files = tokenizer_files()
    manifest = signed(adapter, tmp_path)
    assert manifest.tokenizer_sha256
    assert manifest.chat_template_sha256
    report = linted(tmp_path)
    assert {f.rule.partition("-")[0] for f in report.findings} == {"export"}
    assert "manifest-scaling" in report.rules_run


def test_a_base_other_than_the_one_used_in_training_is_rejected(tmp_path: Path) -> None:
    base = BaseFiles.open(write_base(tmp_path / "base"))
    adapter = plain()
    adapter.files = tokenizer_files()
    manifest = signed(adapter, tmp_path / "adapter")
    folder = AdapterFolder.open(tmp_path / "adapter")
    for recorded, rules in ((base.fingerprint, set()), ("ab" * 32, {"manifest-base"}), ("", set())):
        write_manifest(folder.path, replace(manifest, base_fingerprint=recorded))
        found = lint(AdapterFolder.open(folder.path), base)
        assert {f.rule for f in found.findings} == rules


def test_without_a_manifest_some_rules_are_not_checked(tmp_path: Path) -> None:
    plain().save(tmp_path)
    assert read_manifest(AdapterFolder.open(tmp_path)) is None
    assert any(rule.missing == ("manifest",) for rule in linted(tmp_path).unchecked)


def test_a_changed_alpha_is_found_by_file_and_by_scaling(tmp_path: Path) -> None:
    signed(plain(), tmp_path)
    adapter = plain()
    adapter.config["lora_alpha"] = 16
    adapter.save(tmp_path)
    assert {f.rule for f in linted(tmp_path).findings} == {
        "manifest-file-changed",
        "manifest-scaling",
    }


def test_a_changed_weight_or_a_new_file_is_found(tmp_path: Path) -> None:
    signed(plain(), tmp_path)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-2] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    (tmp_path / "added_tokens.json").write_text("{}")
    found = linted(tmp_path).findings
    assert {(f.rule, f.where) for f in found} == {
        ("manifest-file-changed", WEIGHTS),
        ("manifest-file-changed", "added_tokens.json"),
    }


def test_an_edited_model_card_is_reported_and_accepted(tmp_path: Path) -> None:
    signed(plain(), tmp_path)
    (tmp_path / "README.md").write_text("better card")
    report = linted(tmp_path)
    assert [f.rule for f in report.findings] == ["manifest-card-changed"]
    assert report.accepted


@pytest.mark.parametrize(
    "lie",
    [
        {"tokenizer_sha256": "ab" * 32},
        {"chat_template_sha256": "ab" * 32},
        {"chat_template_sha256": ""},
        {"base_id": "other/Phi-3-model"},
    ],
)
def test_a_manifest_that_contradicts_itself_or_the_config_is_refused(
    lie: dict[str, Any], tmp_path: Path
) -> None:
    adapter = plain()
    adapter.files = tokenizer_files()
    adapter.config["base_model_name_or_path"] = "Some/Phi-3-model"
    manifest = replace(signed(adapter, tmp_path), base_id="some/phi-3-model")
    write_manifest(tmp_path, manifest)
    assert linted(tmp_path).accepted
    write_manifest(tmp_path, replace(manifest, **lie))
    report = linted(tmp_path)
    assert [f.rule for f in report.findings] == ["manifest-contradiction"]
    assert not report.accepted


@pytest.mark.parametrize("loss", [0.0, -1.0, 31.0, 1e30])
def test_an_implausible_final_loss_is_found(loss: float, tmp_path: Path) -> None:
    manifest = signed(plain(), tmp_path)
    write_manifest(tmp_path, replace(manifest, final_losses={"train": loss}))
    assert [f.rule for f in linted(tmp_path).findings] == ["manifest-losses"]


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"schema_version": True},
        {"files": []},
        {"scaling": {"a": "1"}},
        {"seed": "3"},
        {"base_id": None},
        {"more": 1},
    ],
)
def test_a_damaged_manifest_is_an_error_and_a_finding(
    change: dict[str, object], tmp_path: Path
) -> None:
    signed(plain(), tmp_path)
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError, match=r".*; "):
        read_manifest(AdapterFolder.open(tmp_path))
    report = linted(tmp_path)
    assert [f.rule for f in report.findings] == ["manifest-unreadable"]
    assert not report.accepted
