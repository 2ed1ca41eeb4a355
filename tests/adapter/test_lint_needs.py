"""Every rule needs known parts only, and what every adapter has is not optional."""

from typing import get_args

from phi3_lora_qa.adapter.lint_needs import OPTIONAL, Need
from phi3_lora_qa.adapter.rule_catalogue import all_rules


def test_every_need_of_a_rule_is_a_part_and_every_part_is_needed() -> None:
    needed = {need for rule in all_rules() for need in rule.needs}
    assert needed == set(get_args(Need))


def test_an_adapter_without_config_or_weights_is_not_good() -> None:
    assert set(get_args(Need)) - set(OPTIONAL) == {"config", "weights", "expected tensors"}
