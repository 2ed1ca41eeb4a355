"""Tests of the messages of the rules about the folder's chat templates."""

from pathlib import Path

from tests.adapter.adapters import plain, report_on
from tests.adapter.tiny_base import TEMPLATE, tokenizer_files, write_base


def messages(template: str | None, folder: Path) -> dict[str, str]:
    adapter = plain()
    adapter.files = tokenizer_files(template=template) if template else tokenizer_files()
    report = report_on(adapter, folder / "adapter", write_base(folder / "base"))
    return {found.rule: found.message for found in report.findings}


def test_a_different_template_is_reported_with_both_texts(tmp_path: Path) -> None:
    message = messages(TEMPLATE + "{{ 'extra' }}", tmp_path)["tokenizer-template"]
    assert message.startswith("the chat template renders ")
    assert "extra" in message
    assert ", but the base's renders " in message


def test_a_branch_that_no_conversation_takes_is_reported_with_its_line(tmp_path: Path) -> None:
    hidden = TEMPLATE + "{% if messages[0].content == 'qwzx' ~ 'jk' * 7 %}{{ 'x' }}{% endif %}"
    found = messages(hidden, tmp_path)
    assert "tokenizer-template" in found


def test_the_bases_own_template_is_accepted(tmp_path: Path) -> None:
    assert messages(None, tmp_path) == {}
