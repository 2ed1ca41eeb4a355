"""All rules, in the order in which they run and are shown: those on the base, then the linter's."""

from functools import cache

from phi3_lora_qa.adapter.base_checks import base_catalogue
from phi3_lora_qa.adapter.rule import DocumentedRule, Rule
from phi3_lora_qa.adapter.rules import (
    base_identity,
    base_weights,
    config,
    corruption,
    dora_magnitudes,
    duplicate_modules,
    factor_values,
    folder_files,
    foreign_formats,
    internal,
    loader_files,
    manifest,
    non_factor_weights,
    other_bases,
    parent,
    saved_modules,
    serving,
    target_modules,
    template_files,
    template_rendering,
    tensor_layout,
    tokenizer_against_base,
    tokenizer_behaviour,
    tokenizer_files,
    unread_paths,
)
from phi3_lora_qa.close_match import close_matches
from phi3_lora_qa.errors import InputError, escape

_MODULES = (
    foreign_formats,  # family files
    folder_files,
    loader_files,
    other_bases,  # family config
    config,
    unread_paths,
    base_identity,
    base_weights,  # family base
    saved_modules,
    dora_magnitudes,
    target_modules,  # family tensors
    tensor_layout,
    factor_values,  # family values
    duplicate_modules,
    corruption,
    non_factor_weights,
    parent,
    template_rendering,  # family tokenizer
    template_files,
    tokenizer_files,
    tokenizer_against_base,
    tokenizer_behaviour,
    manifest,  # family manifest
    serving,  # family export
    internal,  # family lint
)
"""The modules that define rules, in the order in which their rules run."""


@cache
def all_rules() -> tuple[Rule, ...]:
    """Return every rule on an adapter, family by family, in the order in which they run.

    Raises:
        ValueError: Two rules have the same id.
    """
    rules = [v for module in _MODULES for v in vars(module).values() if isinstance(v, Rule)]
    ids = [rule.id for rule in rules]
    if len(set(ids)) < len(ids):
        repeated = next(id for id in ids if ids.count(id) > 1)  # noqa: A001
        raise ValueError(f"two rules have the id {repeated!r}; rename one of them")
    return tuple(rules)


def documented_rules() -> tuple[DocumentedRule, ...]:
    """Return every rule of the linter, and the rules on the base."""
    return (*all_rules(), *base_catalogue.base_rules())


def find_rule(id: str) -> DocumentedRule:  # noqa: A002 - the word that users see
    """Return the rule with this id, on the base or on an adapter.

    Raises:
        InputError: There is no such rule; the message lists similar ids.
    """
    rules = {rule.id: rule for rule in documented_rules()}
    if id not in rules:
        similar = close_matches(id, rules, n=3, cutoff=0.4)
        fix = (
            f"did you mean {' or '.join(similar)}?"
            if similar
            else f"list a family with `phi3-lora-qa explain FAMILY`: "
            f"{', '.join(documented_families())}"
        )
        raise InputError(f"unknown rule: {escape(id)!r}; {fix}")
    return rules[id]


def families() -> tuple[str, ...]:
    """Return the families of rules on an adapter, in the order in which they run.

    Family lint is not among them: its only rule reports faults of the linter, not of an adapter.
    """
    return tuple(dict.fromkeys(rule.family for rule in all_rules() if rule.family != "lint"))


def documented_families() -> tuple[str, ...]:
    """Return the families of the rules on an adapter, and that of the rules on the base."""
    return (*families(), base_catalogue.FAMILY)
