"""Tests of the public function that lints an adapter."""

from pathlib import Path

import pytest

from phi3_lora_qa.errors import AdapterError, BaseModelError, InputError
from phi3_lora_qa.lint_adapter import lint_adapter
from phi3_lora_qa.models.registry import bundled
from tests.adapter.adapters import plain
from tests.adapter.base_variants import CONFIG, GENERATION, POINTER, copy_base, edit_json
from tests.adapter.faults import spoil

ADAPTER = bundled("tiny") / "adapter"


def test_the_bundled_adapter_is_accepted_with_its_base() -> None:
    report = lint_adapter(ADAPTER, "tiny")
    assert report.accepted
    assert report.findings == ()
    assert "base-sizes" in report.rules_run


def test_paths_may_be_texts_and_the_base_a_folder() -> None:
    report = lint_adapter(str(ADAPTER), bundled("tiny") / "base", select=["base"])
    assert report.unchecked == ()


def test_rules_are_selected_ignored_and_changed_in_level(tmp_path: Path) -> None:
    folder = spoil(plain(), "nan", 0).save(tmp_path)
    assert not lint_adapter(folder).accepted
    assert lint_adapter(folder, ignore=["values-nan"]).accepted
    assert lint_adapter(folder, select=["files"]).accepted
    assert lint_adapter(folder, levels=["values-nan=warning"]).accepted


def test_invalid_input_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(AdapterError):
        lint_adapter(tmp_path / "missing")
    with pytest.raises(BaseModelError):
        lint_adapter(ADAPTER, "no-such-base")
    with pytest.raises(InputError, match="unknown rule"):
        lint_adapter(ADAPTER, select=["no-such-rule"])


def test_a_parent_is_compared_and_must_be_a_readable_other_folder(tmp_path: Path) -> None:
    folder, parent = plain().save(tmp_path / "own"), plain().save(tmp_path / "parent")
    report = lint_adapter(folder, parent=parent)
    assert [finding.rule for finding in report.findings] == ["values-parent-equal"]
    assert lint_adapter(folder, parent=str(ADAPTER)).accepted
    for inside in (folder, plain().save(folder / "parent")):
        with pytest.raises(InputError, match="pass a parent outside of it"):
            lint_adapter(folder, parent=inside)
    with pytest.raises(InputError, match="the parent: "):
        lint_adapter(folder, parent=tmp_path / "missing")
    (parent / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="cannot read the parent"):
        lint_adapter(folder, parent=parent)


def test_a_base_inside_the_adapters_folder_is_rejected(tmp_path: Path) -> None:
    from tests.adapter.tiny_base import write_base

    folder = plain().save(tmp_path)
    with pytest.raises(InputError, match="pass a base outside of it"):
        lint_adapter(folder, write_base(folder / "base"))


def test_findings_about_the_base_do_not_reject_the_adapter(tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=741, min_length=3)
    report = lint_adapter(ADAPTER, base)
    assert report.accepted
    assert report.findings == ()
    rules = [finding.rule for finding in report.base_findings]
    assert rules == ["basemodel-stop-tokens", "basemodel-penalties"]
    ignoring = lint_adapter(ADAPTER, base, ignore=["basemodel"])
    assert ignoring.base_findings == ()
    assert "basemodel-stop-tokens" in ignoring.ignored
    assert lint_adapter(ADAPTER, "tiny").base_findings == ()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_base_that_cannot_be_used_gives_no_verdict(name: str, tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / name).write_bytes(POINTER)
    with pytest.raises(BaseModelError, match=rf"basemodel-files\): {name} is a git-lfs pointer"):
        lint_adapter(ADAPTER, base)


def test_a_base_of_another_size_than_it_says_gives_no_verdict(tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), CONFIG, hidden_size=128)
    with pytest.raises(BaseModelError, match=r"\(basemodel-shapes\)"):
        lint_adapter(ADAPTER, base)
