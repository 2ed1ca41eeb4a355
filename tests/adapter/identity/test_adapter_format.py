"""The format of a folder follows from config, tensors and files together."""

import json
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.identity.adapter_format import recognize_format
from tests.adapter.adapters import factors, plain
from tests.adapter.identity.published import errors, lint_folder, only_error
from tests.adapter.packing import pack
from tests.adapter.tiny_base import module_names


def test_the_config_goes_before_the_tensors_and_the_files(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["peft_type"] = "IA3"
    folder = AdapterFolder.open(adapter.save(tmp_path))
    found = recognize_format(folder, adapter.config, tuple(adapter.tensors))
    assert found is not None
    assert found.where == "adapter_config.json: peft_type"
    assert recognize_format(folder, plain().config, tuple(adapter.tensors)) is None


def test_a_file_of_any_name_is_recognised_by_its_tensors(tmp_path: Path) -> None:
    names = {f"lora_{m.replace('.', '_')}.lora_down.weight": m for m in module_names()}
    some = factors(module_names())["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"]
    (tmp_path / "my-lora.safetensors").write_bytes(pack(dict.fromkeys(names, some)))
    found = recognize_format(AdapterFolder.open(tmp_path), None, ())
    assert found is not None
    assert "kohya" in found.kind
    assert found.where == "my-lora.safetensors"
    assert only_error(lint_folder(tmp_path)).rule == "files-format"


def test_damaged_files_of_other_names_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"<html>")
    assert recognize_format(AdapterFolder.open(tmp_path), None, ()) is None
    rules = {found.rule for found in errors(lint_folder(tmp_path))}
    assert rules >= {"files-config-missing", "files-weights-missing"}
    assert "files-format" not in rules


@pytest.mark.parametrize("code", [b"", b"import os"])
def test_only_the_rules_on_any_folder_run_on_another_format(code: bytes, tmp_path: Path) -> None:
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 2.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapters.safetensors").write_bytes(pack({}))
    if code:
        (tmp_path / "run.py").write_bytes(code)
    report = lint_folder(tmp_path)
    assert only_error(report).message.startswith("this is not a LoRA adapter of PEFT, but an adapt")
    assert {f.rule for f in report.findings} - {"files-format"} == (
        {"files-code"} if code else set()
    )
    assert {rule.fix_first for rule in report.unchecked} == {"files-format"}
    assert len(report.blocked) == len(report.unchecked)
    assert "files-format" in report.rules_run
