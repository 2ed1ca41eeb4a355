"""Family lint: faults of the linter itself."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule


@rule(
    "lint-internal-error",
    severity=Severity.ERROR,
    title="Every rule ran without an error",
    why="A rule that crashed has checked nothing, and silence would look like a pass.",
    fix="save the adapter again with peft; if the error persists, report it with the adapter's "
    "config",
    any_folder=True,
)
def internal_error(context: LintContext) -> Iterator[Violation]:
    """Yield nothing: `lint` itself reports under this id."""
    yield from ()
