"""Tests of checking a base: order, selection, levels, and what the report says."""

from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.base_checks.base_view import BaseView
from phi3_lora_qa.adapter.base_checks.check_base import (
    BaseReport,
    check_base,
    describe,
    unreadable,
    use_of_template,
)
from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.lint_adapter import lint_adapter
from phi3_lora_qa.models.paths import bundled
from tests.adapter.base_variants import (
    CONFIG,
    GENERATION,
    POINTER,
    WITHOUT_SYSTEM,
    copy_base,
    edit_json,
    write_template,
)

SUITE = (("system", "user"),) * 3 + (("user",),) * 7


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base with a wrong stop token, a penalty and sampling, whose template drops system turns."""
    folder = write_template(copy_base(tmp_path / "base"), WITHOUT_SYSTEM)
    fields = {"eos_token_id": 741, "repetition_penalty": 1.2, "do_sample": True}
    return edit_json(folder, GENERATION, **fields)


def test_errors_come_first_and_are_those_of_the_run(base: Path) -> None:
    report = check_base(BaseView(base, prompts=SUITE), uses=[BaseUse.ANSWERS])
    assert [finding.rule for finding in report.findings] == [
        "basemodel-stop-tokens",
        "basemodel-template-drops-turns",
        "basemodel-penalties",
        "basemodel-sampling",
    ]
    assert [finding.rule for finding in report.errors] == ["basemodel-stop-tokens"]
    assert report.is_readable
    with pytest.raises(BaseModelError, match=r"cannot be used \(basemodel-stop-tokens\): gener"):
        report.require_usable()
    check_base(BaseView(base), uses=[BaseUse.LOADING]).require_usable()


def test_the_report_says_which_turns_of_which_prompts_are_unseen(base: Path) -> None:
    report = check_base(BaseView(base, prompts=SUITE))
    assert (("system", "user"), (0,)) in report.unseen
    assert report.affected == 3
    assert check_base(BaseView(base)).affected == 0


def test_rules_can_be_ignored_and_levelled(base: Path) -> None:
    ignored = Selection(ignore=("basemodel-penalties", "basemodel-template-drops-turns"))
    report = check_base(BaseView(base, prompts=SUITE), ignored)
    assert {f.rule for f in report.findings} == {"basemodel-stop-tokens", "basemodel-sampling"}
    assert (report.unseen, report.affected, report.ignored) == ((), 0, ignored.ignore[::-1])
    levels = {"basemodel-stop-tokens": Severity.INFO, "basemodel": Severity.WARNING}
    levelled = Selection(levels=MappingProxyType(levels))
    found = check_base(BaseView(base), levelled, list(BaseUse)).findings
    assert {f.rule: f.severity for f in found}["basemodel-stop-tokens"] is Severity.INFO
    assert {f.rule: f.severity for f in found}["basemodel-sampling"] is Severity.WARNING


def test_a_level_for_all_rules_of_the_adapter_does_not_stop_on_the_base(base: Path) -> None:
    every = Selection(levels=MappingProxyType({"ALL": Severity.ERROR}))
    check_base(BaseView(base), every).require_usable()


def test_a_base_that_cannot_be_read_is_found_whatever_is_ignored(tmp_path: Path) -> None:
    folder = edit_json(copy_base(tmp_path / "base"), CONFIG, hidden_size=128)
    nothing = Selection(ignore=("ALL",), levels=MappingProxyType({"basemodel": Severity.INFO}))
    report = check_base(BaseView(folder), nothing)
    assert [finding.rule for finding in report.errors] == ["basemodel-shapes"]
    assert not report.is_readable
    (folder / "config.json").write_bytes(POINTER)
    assert [f.rule for f in check_base(BaseView(folder), nothing).errors] == ["basemodel-files"]


def test_an_empty_report_is_of_a_usable_base() -> None:
    report = BaseReport()
    report.require_usable()
    assert report.is_readable
    assert not report.errors


def test_a_finding_as_an_error_has_its_fix_at_the_end(base: Path) -> None:
    (found,) = check_base(BaseView(base), uses=[BaseUse.ANSWERS]).errors
    assert describe(found).endswith(found.fix)
    assert found.fix not in describe(found, with_fix=False)


@pytest.mark.parametrize("name", [GENERATION, CONFIG, "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_ends_too_early_is_one_finding(name: str, tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / name).write_bytes((base / name).read_bytes()[:60])
    with pytest.raises(BaseModelError, match=f"{name} is not valid JSON") as caught:
        check_base(BaseView(base), uses=list(BaseUse))
    report = unreadable(caught.value)
    assert [finding.rule for finding in report.errors] == ["basemodel-files"]
    assert f"{name} is not valid JSON" in report.findings[0].message
    assert not report.is_readable


@pytest.mark.parametrize("text", ["{% for", "", "{{ raise_exception('no') }}"])
def test_an_adapter_is_not_compared_with_a_broken_template(text: str, tmp_path: Path) -> None:
    base = write_template(copy_base(tmp_path / "base"), text)
    view, adapter = BaseView(base), AdapterFolder.open(bundled("tiny") / "adapter")
    assert use_of_template(view, adapter) == {BaseUse.TEMPLATE}
    assert not check_base(view, uses=[BaseUse.TEMPLATE]).is_readable
    assert check_base(view, uses=[BaseUse.ANSWERS]).is_readable
    with pytest.raises(BaseModelError, match=r"the base cannot be used \(basemodel-template\)"):
        lint_adapter(adapter.path, base=base)


def test_the_bases_own_template_and_none_are_not_compared(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    adapter = AdapterFolder.open(bundled("tiny") / "adapter")
    assert not use_of_template(BaseView(base), adapter)
    (base / "chat_template.jinja").unlink()
    assert not use_of_template(BaseView(base), adapter)
    assert not use_of_template(BaseView(tmp_path), adapter)


def test_an_adapter_is_not_charged_with_a_quantised_copy_of_its_base(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    packed = {n: t.to(torch.int8) if "_proj." in n else t for n, t in tensors.items()}
    save_file(packed, base / "model.safetensors")
    report = lint_adapter(bundled("tiny") / "adapter", base=base)
    assert [finding.rule for finding in report.base_findings] == ["basemodel-quantised"]
    assert not report.findings
    assert "manifest-base" in {rule.rule for rule in report.unchecked}
