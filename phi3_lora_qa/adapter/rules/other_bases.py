"""Family config: which base the adapter is for, by all of its own words together.

If it is another base, the rules on its config, tensors and tokenizer do not run: what they would
say assumes the base of the check.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule


@rule(
    "config-other-base",
    severity=Severity.ERROR,
    title="The adapter is for the base of this check, or for a Phi-3",
    why="On another model, or on the same model in another layout, PEFT finds no module for the "
    "tensors, or modules of other sizes.",
    fix="check the adapter against the base that it was trained on",
    any_base=True,
)
def other_base(context: LintContext) -> Iterator[Violation]:
    """Compare the base that the adapter's own words name with the one of this check."""
    if found := context.identity.base_fault:
        yield Violation(found.where, found.message, found.fix)
