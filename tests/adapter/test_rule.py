"""Tests of the decorator that makes rules, and of the findings that a rule makes."""

from collections.abc import Iterator

import pytest

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.needs import IDENTITY, Need
from phi3_lora_qa.adapter.rule import rule


@rule("files-example", severity=Severity.INFO, title="t", why="w", fix="do X", needs=["config"])
def example(context: LintContext) -> Iterator[Violation]:
    yield Violation("here", "wrong")


def test_the_decorator_makes_a_rule_whose_family_is_the_first_word() -> None:
    assert (example.id, example.family) == ("files-example", "files")


def test_a_rule_runs_only_on_what_it_is_about() -> None:
    def needs(id: str, *own: Need, **options: bool) -> tuple[Need, ...]:  # noqa: A002
        texts = {"severity": Severity.INFO, "title": "t", "why": "w", "fix": "f"}
        made = rule(id, needs=own, **texts, **options)(example.check)  # type: ignore[arg-type]
        return made.needs

    lora, base = IDENTITY
    assert example.needs == (lora, "config")
    assert needs("files-x", "base") == (lora, base, "base")
    assert needs("values-x") == needs("tokenizer-x") == (lora, base)
    assert needs("config-x", any_base=True) == (lora,)
    assert needs("files-x", any_folder=True) == ()


def test_a_finding_has_the_rules_fix_unless_the_violation_has_its_own() -> None:
    assert example.finding(Violation("here", "wrong")).fix == "do X"
    assert example.finding(Violation("here", "wrong", "do Y")).fix == "do Y"


def test_the_texts_of_a_finding_are_escaped() -> None:
    finding = example.finding(Violation("a\nb", "c\x1b", "d\u202e"))
    assert all(text.isprintable() for text in (finding.where, finding.message, finding.fix))
    assert example.finding(Violation("", "wrong")).where == '""'


@pytest.mark.parametrize("name", ["files", "Files-x", "files_x", "files-", "-x"])
def test_an_invalid_id_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="invalid rule id"):
        rule(name, severity=Severity.INFO, title="", why="", fix="")
