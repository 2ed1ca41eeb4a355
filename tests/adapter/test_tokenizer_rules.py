import json
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import lint
from phi3_lora_qa.adapter.manifest import make_manifest, write_manifest
from phi3_lora_qa.errors import BaseModelError
from tests.adapter.builders import TEMPLATE, plain, report_on, tokenizer_files, write_base

OTHER = TEMPLATE + "{{ 'Say thanks.' }}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def rules(files: dict[str, bytes], folder: Path, base: Path | None) -> list[str]:
    adapter = plain()
    adapter.files = files
    return [finding.rule for finding in report_on(adapter, folder, base).findings]


def test_the_bases_own_tokenizer_is_accepted(tmp_path: Path, base: Path) -> None:
    assert rules(tokenizer_files(), tmp_path, base) == []


def test_a_template_in_a_file_of_its_own_is_the_same_template(tmp_path: Path, base: Path) -> None:
    files = tokenizer_files(template="ignored, as the file goes first")
    files["chat_template.jinja"] = (TEMPLATE + "\n").encode()
    assert rules(files, tmp_path, base) == []


def test_a_stop_token_that_is_no_token_is_rejected(tmp_path: Path, base: Path) -> None:
    files = tokenizer_files()
    settings = json.loads(files["tokenizer_config.json"])
    files["tokenizer_config.json"] = json.dumps({**settings, "eos_token": "<|stop|>"}).encode()
    assert rules(files, tmp_path, base) == ["tokenizer-stop-token"]


def test_tokens_on_spare_rows_must_be_trained(tmp_path: Path, base: Path) -> None:
    adapter = plain()
    adapter.files = tokenizer_files(extra={"<|tool|>": 5})
    found = report_on(adapter, tmp_path / "untrained", base)
    assert [f.rule for f in found.findings] == ["tokenizer-untrained-tokens"]
    assert found.accepted
    table = adapter.array("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight")
    adapter.config["trainable_token_indices"] = [5]
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    adapter.tensors[name] = table[:1, :32].copy()
    trained = report_on(adapter, tmp_path / "trained", base)
    assert "tokenizer-untrained-tokens" not in {f.rule for f in trained.findings}


def test_another_template_is_rejected(tmp_path: Path, base: Path) -> None:
    assert rules(tokenizer_files(template=OTHER), tmp_path, base) == ["tokenizer-template"]


def test_another_template_that_the_manifest_declares_is_a_warning(
    tmp_path: Path, base: Path
) -> None:
    adapter = plain()
    adapter.files = tokenizer_files(template=OTHER)
    folder = AdapterFolder.open(adapter.save(tmp_path))
    manifest = make_manifest(
        folder, base_id="tiny", seed=0, versions={}, final_losses={"train": 1.0}
    )
    write_manifest(tmp_path, manifest)
    report = lint(AdapterFolder.open(tmp_path), BaseFiles.open(base))
    assert [f.rule for f in report.findings] == ["tokenizer-template-declared"]
    assert report.accepted


def test_a_pad_token_that_ends_turns_is_warned_of_unless_the_base_has_it(
    tmp_path: Path, base: Path
) -> None:
    files = tokenizer_files(pad="<|end|>")
    assert rules(files, tmp_path / "a", base) == ["tokenizer-pad-is-stop"]
    assert rules(files, tmp_path / "b", None) == ["tokenizer-pad-is-stop"]
    own = write_base(tmp_path / "base")
    (own / "tokenizer_config.json").write_bytes(files["tokenizer_config.json"])
    assert rules(files, tmp_path / "c", own) == []


def test_tokens_under_other_numbers_are_rejected(tmp_path: Path, base: Path) -> None:
    files = tokenizer_files()
    content = json.loads(files["tokenizer.json"])
    words = content["model"]["vocab"]
    words["word1"], words["word2"] = words["word2"], words["word1"]
    files["tokenizer.json"] = json.dumps(content).encode()
    assert rules(files, tmp_path, base) == ["tokenizer-vocabulary"]


def test_tokens_without_a_row_are_rejected(tmp_path: Path, base: Path) -> None:
    files = tokenizer_files(extra={"<|tool|>": 96})
    assert rules(files, tmp_path, base) == ["tokenizer-added-tokens"]


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
def test_a_damaged_file_is_rejected(name: str, tmp_path: Path, base: Path) -> None:
    for content in (b"{", b"[]"):
        assert rules({name: content}, tmp_path / "a", None) == ["tokenizer-unreadable"]
        based = rules({name: content}, tmp_path / "a", base)
        assert based in (["tokenizer-unreadable"], ["tokenizer-vocabulary"])
    files = {"chat_template.jinja": b"\xff"}
    assert rules(files, tmp_path / "b", None) == ["tokenizer-unreadable"]


def test_a_damaged_tokenizer_of_the_base_is_no_fault_of_the_adapter(tmp_path: Path) -> None:
    own = write_base(tmp_path / "base")
    (own / "tokenizer_config.json").write_text("{")
    with pytest.raises(BaseModelError):
        rules(tokenizer_files(), tmp_path / "a", own)


def test_without_a_tokenizer_it_says_what_was_not_checked(tmp_path: Path) -> None:
    report = report_on(plain(), tmp_path)
    assert any("needs the tokenizer" in text for text in report.unchecked)
