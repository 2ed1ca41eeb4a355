"""Tests of the list of rules on the base."""

from phi3_lora_qa.adapter.base_checks.base_catalogue import FAMILY, base_rules
from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.rule_catalogue import all_rules, documented_rules, find_rule


def test_every_rule_is_of_the_family_and_documented() -> None:
    rules = base_rules()
    assert {rule.family for rule in rules} == {FAMILY}
    assert len({rule.id for rule in rules}) == len(rules) == 13
    assert all(rule.title and rule.why.endswith(".") and rule.fix for rule in rules)
    assert all(find_rule(rule.id) is rule for rule in rules)


def test_what_cannot_be_read_comes_first() -> None:
    errors = [rule.severity is Severity.ERROR for rule in base_rules()]
    assert errors == sorted(errors, reverse=True)


def test_no_rule_on_the_base_is_one_of_the_linters() -> None:
    assert not set(base_rules()) & set(all_rules())
    assert documented_rules() == (*all_rules(), *base_rules())
