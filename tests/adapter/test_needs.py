"""The needs of the rules are those of the list."""

from typing import get_args

from phi3_lora_qa.adapter.needs import IDENTITY, OPTIONAL, Need
from phi3_lora_qa.adapter.rule_catalogue import all_rules, find_rule


def test_every_need_is_used_and_the_identity_goes_first() -> None:
    used = {need for rule in all_rules() for need in rule.needs}
    assert used == set(get_args(Need))
    assert set(OPTIONAL) < used
    for rule in all_rules():
        assert [need for need in rule.needs if need in IDENTITY] == list(
            rule.needs[: len(set(rule.needs) & set(IDENTITY))]
        )


def test_the_rules_that_report_the_identity_exist() -> None:
    assert [find_rule(rule).id for rule in IDENTITY.values()] == list(IDENTITY.values())
