"""Tests of the renderings and comparisons of an adapter's chat templates."""

from pathlib import Path

import pytest

from phi3_lora_qa.adapter.chat_template import template_results
from phi3_lora_qa.adapter.chat_template.template_files import ChatTemplate, ChatTemplates
from phi3_lora_qa.adapter.chat_template.template_rendering import Comparison
from phi3_lora_qa.adapter.chat_template.template_results import (
    TemplateMatch,
    TemplateResults,
    render_templates,
    shadowing,
)
from phi3_lora_qa.adapter.folder import AdapterFolder
from tests.adapter.adapters import plain
from tests.adapter.chat_templates import GOOD, MINI

OURS, THEIRS = (ChatTemplate(name="default", text=text, file="x") for text in (GOOD, MINI))


@pytest.mark.parametrize(
    ("comparison", "match"),
    [
        (Comparison(error="took too long"), TemplateMatch.DIFFERENT),
        (Comparison(same_form=True), TemplateMatch.SAME),
        (Comparison(uncovered_lines=(3,)), TemplateMatch.UNREACHED_BRANCH),
        (Comparison(), TemplateMatch.SEEMS_SAME),
    ],
)
def test_a_match_follows_from_the_comparison(comparison: Comparison, match: TemplateMatch) -> None:
    results = TemplateResults(compared={(OURS.text, THEIRS.text): comparison})
    assert results.match(OURS, THEIRS).match is match
    assert results.match(OURS, OURS).match is TemplateMatch.SAME


def test_a_shadowed_template_is_replaced_by_the_one_of_its_name_or_the_default() -> None:
    own = ChatTemplates(active={"default": THEIRS}, shadowed=(OURS,))
    assert shadowing(own, OURS) is THEIRS
    assert shadowing(own, ChatTemplate(name="tool_use", text="", file="x")) is THEIRS


def test_a_known_template_is_not_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("a template was rendered")

    monkeypatch.setattr(template_results, "render_and_compare", fail)
    folder = AdapterFolder.open(plain().save(tmp_path))
    own = ChatTemplates(active={"default": THEIRS}, shadowed=())
    assert render_templates(own, None, (folder,)) == TemplateResults()
