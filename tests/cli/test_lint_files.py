"""Files of a commit are linted as the adapter folders that they are in, each once."""

import re
from pathlib import Path

import pytest

from phi3_lora_qa.cli.lint_files import adapter_folders
from tests.adapter.adapters import plain
from tests.adapter.faults import spoil
from tests.cli.builders import run

HOOKS = Path(__file__).parents[2] / ".pre-commit-hooks.yaml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    plain().save(tmp_path / "good")
    spoil(plain(), "nan", 0.5).save(tmp_path / "deep" / "bad")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_adapter_is_linted_once_and_other_files_are_skipped(project: Path) -> None:
    files = ["good/adapter_config.json", "config.json", "good/adapter_model.safetensors", "gone/x"]
    assert adapter_folders([Path(file) for file in files]) == [Path("good")]
    result = run("lint-files", *files)
    assert result.exit_code == 0
    assert result.stdout.count("accepted  good") == 1
    assert run("lint-files").exit_code == run("lint-files", "config.json").exit_code == 0


def test_one_rejected_adapter_rejects_the_commit(project: Path) -> None:
    files = ["deep/bad/adapter_config.json", "good/adapter_config.json"]
    for order in (files, files[::-1]):
        result = run("lint-files", *order)
        assert result.exit_code == 1
        assert "rejected  deep/bad" in result.stdout
        assert "accepted  good" in result.stdout
    assert run("lint-files", *files, "--ignore", "values-nan").exit_code == 0


def test_weights_whose_config_is_missing_are_an_adapter(project: Path) -> None:
    (project / "good" / "adapter_config.json").unlink()
    result = run("lint-files", "good/adapter_model.safetensors")
    assert result.exit_code == 1
    assert "config-missing" in result.stdout


def test_an_adapter_in_the_current_folder_is_linted(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "deep" / "bad")
    assert run("lint-files", "adapter_model.safetensors").exit_code == 1


def test_the_hook_passes_files_of_adapters_and_no_others() -> None:
    text = HOOKS.read_text()
    (pattern,) = re.findall(r"^  files: (.+)$", text, re.MULTILINE)
    for name in ("adapter_config.json", "a/adapter_model.safetensors", "a/tokenizer.json",
                 "a/tokenizer_config.json", "a/chat_template.jinja", "a/modeling.py",
                 "a/adapter_model.bin", "a/config.json", "a/generation_config.json"):  # fmt: skip
        assert re.search(pattern, name), name
    for name in ("README.md", "a/notes.txt", "a/train.jsonl"):
        assert not re.search(pattern, name), name
    (entry,) = re.findall(r"^  entry: phi3-lora-qa (\S+)$", text, re.MULTILINE)
    assert run(entry, "--help").exit_code == 0
