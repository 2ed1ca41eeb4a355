"""Tests of the catalogue of rules: complete, in order, and with unique ids."""

import pkgutil
from types import ModuleType

import pytest

from phi3_lora_qa.adapter import rule_catalogue, rules
from phi3_lora_qa.adapter.rule_catalogue import all_rules, families, find_rule
from phi3_lora_qa.errors import InputError


def test_every_module_of_the_package_is_in_the_catalogue() -> None:
    listed = [module.__name__.rpartition(".")[2] for module in rule_catalogue._MODULES]
    assert sorted(listed) == sorted(module.name for module in pkgutil.iter_modules(rules.__path__))


def test_the_rules_of_a_family_are_together_in_a_readers_order() -> None:
    names = [rule.family for rule in all_rules()]
    order = ["files", "config", "base", "tensors", "values", "tokenizer", "manifest", "export"]
    assert list(families()) == order
    assert names == sorted(names, key=[*order, "lint"].index)


def test_the_texts_of_every_rule_fit_their_sentences() -> None:
    for rule in all_rules():
        assert rule.title[-1] not in ".;", rule.id
        assert rule.why.endswith("."), rule.id
        assert rule.fix[-1] not in ".;", rule.id
        assert rule.fix[0].islower(), rule.id


def test_two_rules_with_one_id_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = ModuleType("copy")
    copy.rule = all_rules()[0]  # type: ignore[attr-defined]
    monkeypatch.setattr(rule_catalogue, "_MODULES", (*rule_catalogue._MODULES, copy))
    all_rules.cache_clear()
    with pytest.raises(ValueError, match="two rules have the id 'files-format'"):
        all_rules()
    all_rules.cache_clear()


def test_an_unknown_rule_is_an_error_that_lists_similar_ones() -> None:
    assert find_rule("values-nan").id == "values-nan"
    with pytest.raises(InputError, match="unknown rule: 'values-nann'; did you mean values-nan"):
        find_rule("values-nann")


def test_an_id_like_no_other_is_answered_with_the_families() -> None:
    with pytest.raises(
        InputError, match=r"unknown rule: 'x'; list a family with .*: files, config"
    ):
        find_rule("x")
