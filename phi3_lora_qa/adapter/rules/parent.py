"""Family values: the adapter differs from the one that it was trained from."""

from collections.abc import Iterator, Sequence

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.parent_adapter import Change
from phi3_lora_qa.adapter.rule import rule

_UNCHANGED = (Change.NONE, Change.ROUNDED, Change.REWRITTEN)
_SHOWN = 3


@rule(
    "values-parent-equal",
    severity=Severity.ERROR,
    title="Training changed the adapter that it started from",
    why="A run that trains nothing saves its start again, under a new name and date: "
    "PeftModel.from_pretrained freezes the adapter unless is_trainable is set, an optimizer can "
    "have no parameters, and a script can copy the wrong folder. Saving in another dtype, or "
    "writing the same delta with other factors, changes the file and not the model.",
    fix="train again with PeftModel.from_pretrained(…, is_trainable=True), or pass the folder that "
    "training wrote",
    needs=["weights", "parent"],
)
def parent_equal(context: LintContext) -> Iterator[Violation]:
    """Find an adapter that is its parent: equal, rounded, or with the same deltas."""
    changes = context.parent_changes.values()
    if not changes or not all(change in _UNCHANGED for change in changes):
        return
    if Change.REWRITTEN in changes:
        how = "the factors differ, but the delta B·A of every module is the parent's"
    elif Change.ROUNDED in changes:
        how = "every number is the parent's, apart from rounding to another dtype"
    else:
        how = "every number is the parent's, to the bit"
    yield Violation(WEIGHTS, f"nothing was trained since the parent: {how}")


@rule(
    "values-parent-unchanged",
    severity=Severity.WARNING,
    title="Training changed every module of the adapter that it started from",
    why="Modules that stay the same were frozen, or no gradient reached them.",
    fix="check which parameters require a gradient, and train again, unless these modules were to "
    "stay the same",
    needs=["weights", "parent"],
)
def parent_unchanged(context: LintContext) -> Iterator[Violation]:
    """Find modules that training did not change, and a parent that has none of the modules."""
    changes = context.parent_changes
    same = [module for module, change in changes.items() if change in _UNCHANGED]
    if changes and all(change is Change.ADDED for change in changes.values()):
        yield Violation(
            WEIGHTS,
            "the parent has none of this adapter's modules, so nothing was compared",
            "pass the adapter that this one was trained from",
        )
    elif same and len(same) < len(changes):
        trained = [module for module in changes if module not in set(same)]
        yield Violation(
            WEIGHTS,
            f"{len(same)} of {len(changes)} modules are the parent's: {_shortened(same)}; training "
            f"changed {_shortened(trained)}",
        )


def _shortened(modules: Sequence[str]) -> str:
    """Return the first modules, and how many more there are."""
    shown = ", ".join(f"{module:.60}" for module in modules[:_SHOWN])
    return f"{shown} and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else shown
