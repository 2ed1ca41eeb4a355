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


def _fix_against(base_template: str, template: str, folder: Path) -> str:
    adapter = plain()
    adapter.files = tokenizer_files(template=template)
    base = write_base(folder / "base")
    (base / "chat_template.jinja").write_text(base_template)
    report = report_on(adapter, folder / "adapter", base)
    return next(found.fix for found in report.findings if found.rule == "tokenizer-template")


def test_a_base_that_drops_turns_is_not_recommended(tmp_path: Path) -> None:
    dropping = TEMPLATE.replace("<|{{ m.role", "{% if m.role != 'system' %}<|{{ m.role", 1)
    dropping = dropping.replace("<|end|>{% endfor", "<|end|>{% endif %}{% endfor", 1)
    fix = _fix_against(dropping, TEMPLATE, tmp_path)
    assert fix.startswith("use a base whose chat template shows every turn")


def test_a_template_that_drops_the_same_turns_gets_the_bases_tokenizer(tmp_path: Path) -> None:
    dropping = TEMPLATE.replace("<|{{ m.role", "{% if m.role != 'system' %}<|{{ m.role", 1)
    dropping = dropping.replace("<|end|>{% endfor", "<|end|>{% endif %}{% endfor", 1)
    fix = _fix_against(dropping, dropping + "{{ 'extra' }}", tmp_path)
    assert fix.startswith("save the base's own tokenizer")
    assert "--phi3-lint-levels tokenizer-template=warning" in fix
