"""What the rules say of a chat template that is rendered: it fails, or makes no prompt."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.chat_template.template_rendering import render_and_compare
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, lint
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.adapter.rules import template_rendering as rules
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
    """The templates that the rules render, in order."""
    seen: list[str] = []

    def count(templates: Sequence[str], *arguments: Any) -> Any:
        seen.extend(templates)
        return render_and_compare(templates, *arguments)

    monkeypatch.setattr(rules, "render_and_compare", count)
    return seen


@pytest.mark.parametrize("name", HEALTHY)
def test_a_template_that_makes_prompts_is_accepted(name: str, tmp_path: Path) -> None:
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


def test_a_template_that_fails_in_the_second_turn_only_is_rejected(tmp_path: Path) -> None:
    late = GOOD + "{% if messages | length > 2 %}{{ no.such }}{% endif %}"
    assert found(linted(late, tmp_path)) == ["tokenizer-template-fails"]


def test_only_a_system_message_may_be_refused(tmp_path: Path) -> None:
    refusing = "{% if messages | length NUMBER %}{{ raise_exception('no') }}{% endif %}" + GOOD
    for condition, roles in (("< 2", "user"), ("== 3", "user, assistant, user")):
        report = linted(refusing.replace("NUMBER", condition), tmp_path / roles)
        assert found(report) == ["tokenizer-template-fails"]
        assert f"refuses the messages {roles}: 'no'" in report.findings[0].message
    assert found(linted(BRACKETS, tmp_path / "system")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "message"),
    [
        (GOOD.replace("add_generation_prompt", "false"), "lacks what stands before an answer"),
        (MINI.replace("add_generation_prompt", "false"), "lacks what stands before an answer"),
        (GOOD.replace("m.content", "m.content | upper"), "messages user, what the user wrote"),
        (GOOD.replace("m.content", "m.content[:9]"), "messages user, what the user wrote"),
        (GOOD.replace("in messages", "in messages[-1:]"), "messages user, assistant, user, what"),
        (GOOD.replace("in messages", "in messages[:1]"), "messages user, assistant, user, what"),
        (
            GOOD.replace("in messages", "in messages if messages[0].role == 'user'"),
            "messages system, user, what the user wrote",
        ),
    ],
)
def test_a_prompt_without_an_opening_or_without_the_users_words_is_warned_of(
    template: str, message: str, tmp_path: Path, renderings: list[str]
) -> None:
    report = linted(template, tmp_path)
    assert found(report) == ["tokenizer-template-prompt"]
    assert message in report.findings[0].message
    assert report.accepted
    assert renderings == [template]


def test_a_template_in_a_file_of_its_own_is_named_there(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = {"chat_template.jinja": b"{{ eos_token + bos_token + no.such }}"}
    (finding,) = report_on(adapter, tmp_path).findings
    assert finding.where == "chat_template.jinja"
    assert "'no' is undefined" in finding.message  # and the tokens are Phi-3's own


def test_a_token_that_the_tokenizer_does_not_have_is_missed_by_its_template(tmp_path: Path) -> None:
    template = GOOD + "{{ bos_token + '' }}"
    assert found(linted(template, tmp_path / "a")) == []
    assert found(linted(template, tmp_path / "b", bos_token={"content": "<s>"})) == []
    assert found(linted(template, tmp_path / "c", bos_token=None)) == ["tokenizer-template-fails"]


def test_a_template_that_is_known_or_the_bases_is_not_rendered(
    tmp_path: Path, renderings: list[str]
) -> None:
    known = (bundled("tiny") / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    for number, template in enumerate((known, MINI)):
        assert template_hash(template) in rules.KNOWN_GOOD
        assert found(linted(template, tmp_path / str(number))) == []
    base = write_base(tmp_path / "base")
    adapter = plain()
    adapter.files = tokenizer_files()
    assert found(report_on(adapter, tmp_path / "based", base)) == []
    assert renderings == []


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_a_known_template_would_be_accepted_if_it_were_rendered(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (bundled("tiny") / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    monkeypatch.setattr(rules, "KNOWN_GOOD", {})
    assert found(linted(own if name == "tiny" else MINI, tmp_path)) == []


def test_with_another_base_the_own_template_is_rendered(
    tmp_path: Path, renderings: list[str]
) -> None:
    adapter = plain()
    adapter.files = tokenizer_files(template="{% if %}")
    report = report_on(adapter, tmp_path / "adapter", write_base(tmp_path / "base"))
    assert set(found(report)) == {"tokenizer-template", "tokenizer-template-fails"}
    assert renderings == ["{% if %}", TEMPLATE]


def test_a_base_whose_template_is_unreadable_is_no_fault_of_the_adapter(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "chat_template.jinja").write_bytes(b"\xff")
    adapter = plain()
    adapter.files = tokenizer_files(template=GOOD)
    with pytest.raises(BaseModelError):
        report_on(adapter, tmp_path / "adapter", base)


def test_a_renderer_that_does_not_start_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_of("sys.exit(1)", tmp_path, monkeypatch)
    with pytest.raises(MachineError, match="did not start"):
        linted(GOOD, tmp_path / "adapter")


def test_nothing_is_kept_of_an_adapter_that_is_gone(tmp_path: Path) -> None:
    import gc

    linted(GOOD, tmp_path)
    gc.collect()
    assert len(rules._worked) == 0
    assert lint(AdapterFolder.open(tmp_path)).accepted
