"""Tests of the rules about rendered chat templates: one fails, or makes no proper prompt."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.chat_template import template_results
from phi3_lora_qa.adapter.chat_template.template_rendering import render_and_compare
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, lint
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.errors import BaseModelError, MachineError
from phi3_lora_qa.models.registry import bundled
from tests.adapter.adapters import plain, report_on
from tests.adapter.chat_templates import BRACKETS, ESCAPES, GOOD, HEALTHY, HOSTILE, LOOPS, MINI
from tests.adapter.stand_in_child import child_of
from tests.adapter.tiny_base import TEMPLATE, tokenizer_files, write_base


def linted(template: str, folder: Path, **changes: Any) -> LintReport:
    adapter = plain()
    adapter.files = tokenizer_files(template=template)
    content = json.loads(adapter.files["tokenizer_config.json"]) | changes
    adapter.files["tokenizer_config.json"] = json.dumps(content).encode()
    return report_on(adapter, folder)


def found(report: LintReport) -> list[str]:
    return [finding.rule for finding in report.findings]


@pytest.fixture
def renderings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The templates that the linter renders, in order."""
    seen: list[str] = []

    def count(templates: Sequence[str], *arguments: Any) -> Any:
        seen.extend(templates)
        return render_and_compare(templates, *arguments)

    monkeypatch.setattr(template_results, "render_and_compare", count)
    return seen


@pytest.mark.parametrize("name", HEALTHY)
def test_a_template_that_renders_prompts_is_accepted(name: str, tmp_path: Path) -> None:
    assert found(linted(HEALTHY[name], tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("template", [LOOPS, HOSTILE["a text"][0], "{% if %}", ESCAPES[0]])
def test_a_template_that_cannot_be_rendered_is_rejected_in_seconds(
    template: str, tmp_path: Path, renderings: list[str]
) -> None:
    start = time.perf_counter()
    report = linted(template, tmp_path)
    assert time.perf_counter() - start < 5
    assert found(report) == ["tokenizer-template-fails"]
    assert report.findings[0].where == "tokenizer_config.json"
    assert not report.accepted
    assert renderings == [template]


def test_a_template_that_fails_only_in_the_second_turn_is_rejected(tmp_path: Path) -> None:
    late = GOOD + "{% if messages | length > 2 %}{{ no.such }}{% endif %}"
    assert found(linted(late, tmp_path)) == ["tokenizer-template-fails"]


def test_a_template_may_reject_only_a_system_message(tmp_path: Path) -> None:
    refusing = "{% if messages | length NUMBER %}{{ raise_exception('no') }}{% endif %}" + GOOD
    for condition, roles in (("< 2", "user"), ("== 3", "user, assistant, user")):
        report = linted(refusing.replace("NUMBER", condition), tmp_path / roles)
        assert found(report) == ["tokenizer-template-fails"]
        assert f"rejects the messages {roles}: 'no'" in report.findings[0].message
    assert found(linted(BRACKETS, tmp_path / "system")) == []


UNOPENED = "nothing opens the answer: the prompt is the same with and without"
UNCHANGED = " not contain the user's text unchanged"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            GOOD.replace("add_generation_prompt", "false"),
            UNOPENED,
        ),
        (
            MINI.replace("add_generation_prompt", "false"),
            UNOPENED,
        ),
        (
            GOOD.replace("m.content", "m.content | upper"),
            "messages user does" + UNCHANGED,
        ),
        (
            GOOD.replace("m.content", "m.content[:9]"),
            "messages user does" + UNCHANGED,
        ),
        (
            GOOD.replace("in messages", "in messages[-1:]"),
            "messages user, assistant, user does" + UNCHANGED,
        ),
        (
            GOOD.replace("in messages", "in messages[:1]"),
            "messages user, assistant, user does" + UNCHANGED,
        ),
        (
            GOOD.replace("in messages", "in messages if messages[0].role == 'user'"),
            "messages system, user does" + UNCHANGED,
        ),
    ],
)
def test_a_prompt_that_does_not_open_the_answer_or_lacks_the_users_text_is_a_warning(
    template: str, message: str, tmp_path: Path, renderings: list[str]
) -> None:
    report = linted(template, tmp_path)
    assert found(report) == ["tokenizer-template-prompt"]
    assert message in report.findings[0].message
    assert report.accepted
    assert renderings == [template]


def test_a_template_in_a_separate_file_is_reported_with_that_file(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = {"chat_template.jinja": b"{{ eos_token + bos_token + no.such }}"}
    (finding,) = report_on(adapter, tmp_path).findings
    assert finding.where == "chat_template.jinja"
    assert "'no' is undefined" in finding.message  # the special tokens are Phi-3's


def test_a_token_that_is_set_to_null_is_undefined_in_the_template(tmp_path: Path) -> None:
    template = GOOD + "{{ bos_token + '' }}"
    assert found(linted(template, tmp_path / "a")) == []
    assert found(linted(template, tmp_path / "b", bos_token={"content": "<s>"})) == []
    assert found(linted(template, tmp_path / "c", bos_token=None)) == ["tokenizer-template-fails"]


def test_a_known_template_and_the_bases_are_not_rendered(
    tmp_path: Path, renderings: list[str]
) -> None:
    known = (bundled("tiny") / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    for number, template in enumerate((known, MINI)):
        assert template_hash(template) in template_results.KNOWN_GOOD
        assert found(linted(template, tmp_path / str(number))) == []
    base = write_base(tmp_path / "base")
    adapter = plain()
    adapter.files = tokenizer_files()
    assert found(report_on(adapter, tmp_path / "based", base)) == []
    assert renderings == []


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_a_known_template_is_accepted_if_it_is_rendered(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (bundled("tiny") / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    monkeypatch.setattr(template_results, "KNOWN_GOOD", {})
    assert found(linted(own if name == "tiny" else MINI, tmp_path)) == []


def test_a_template_other_than_the_bases_is_rendered(tmp_path: Path, renderings: list[str]) -> None:
    adapter = plain()
    adapter.files = tokenizer_files(template="{% if %}")
    report = report_on(adapter, tmp_path / "adapter", write_base(tmp_path / "base"))
    assert set(found(report)) == {"tokenizer-template", "tokenizer-template-fails"}
    assert renderings == ["{% if %}", TEMPLATE]


def test_an_unreadable_template_of_the_base_is_not_a_finding(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "chat_template.jinja").write_bytes(b"\xff")
    adapter = plain()
    adapter.files = tokenizer_files(template=GOOD)
    with pytest.raises(BaseModelError):
        report_on(adapter, tmp_path / "adapter", base)


def test_a_renderer_that_does_not_start_gives_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_of("sys.exit(1)", tmp_path, monkeypatch)
    with pytest.raises(MachineError, match="did not start"):
        linted(GOOD, tmp_path / "adapter")


def test_templates_are_rendered_once_for_each_run_and_not_kept(
    tmp_path: Path, renderings: list[str]
) -> None:
    linted(GOOD, tmp_path)
    assert renderings == [GOOD]
    assert lint(AdapterFolder.open(tmp_path)).accepted
    assert renderings == [GOOD, GOOD]
