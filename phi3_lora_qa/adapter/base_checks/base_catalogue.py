"""The rules on the base, in the order in which they run and are shown."""

from functools import cache

from phi3_lora_qa.adapter.base_checks import (
    file_rules,
    generation_rules,
    quantised_rules,
    rope_rules,
    template_rules,
)
from phi3_lora_qa.adapter.base_checks.base_rule import BaseRule

FAMILY = "basemodel"
_MODULES = (file_rules, quantised_rules, rope_rules, template_rules, generation_rules)


@cache
def base_rules() -> tuple[BaseRule, ...]:
    """Return every rule of family `FAMILY`; those without which nothing can be read come first."""
    return tuple(r for module in _MODULES for r in vars(module).values() if isinstance(r, BaseRule))
