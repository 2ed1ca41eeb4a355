"""Tests of the messages of the rules about a tokenizer's behaviour, without running one."""

from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rules import tokenizer_behaviour as rules
from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import (
    Difference,
    DifferenceKind,
    TokenizerComparison,
)
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import plain


@pytest.fixture
def context(tmp_path: Path) -> LintContext:
    return LintContext(AdapterFolder.open(plain().save(tmp_path)), None)


def difference(kind: DifferenceKind) -> Difference:
    return Difference(
        loader="transformers", kind=kind, text="a b", ours="[1]", theirs="[2]", count=3
    )


def use_comparison(monkeypatch: pytest.MonkeyPatch, **results: Any) -> None:
    nothing: dict[str, Any] = {"load_errors": {}, "new_words": {}, "matched_variants": {}}
    comparison = TokenizerComparison(**nothing | results)
    monkeypatch.setattr(LintContext, "tokenizer_comparison", comparison)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (DifferenceKind.IDS, "encodes 'a b' as [1], but the base's as [2] (3 texts differ)"),
        (
            DifferenceKind.TEXT,
            "decodes the tokens of 'a b' as [1], but the base's as [2] (3 texts differ)",
        ),
    ],
)
def test_a_difference_is_reported_with_both_results(
    kind: DifferenceKind, message: str, context: LintContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_comparison(monkeypatch, differences=(difference(kind),))
    (found,) = rules.behaviour.check(context)
    assert found.message == f"transformers' tokenizer {message}"
    assert list(rules.versions.check(context)) == []


def test_an_untrained_word_is_reported_with_its_id(
    context: LintContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_comparison(monkeypatch, new_words={"refund": 99})
    (found,) = rules.words.check(context)
    assert found.message == "'refund' was added as token 99, but not trained"
    assert list(rules.trained_words.check(context)) == []


def test_an_unreadable_file_is_reported_with_the_readers_fix(
    context: LintContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(context: LintContext) -> TokenizerComparison:
        raise AdapterError("x is broken", "save x again")

    monkeypatch.setattr(LintContext, "tokenizer_comparison", property(fail))
    (found,) = rules.behaviour.check(context)
    assert (found.message, found.fix) == ("x is broken", "save x again")
