"""Family lint: that the linter itself could do its work."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.lint_context import LintContext


@rule(
    "lint-internal-error",
    severity=Severity.ERROR,
    title="Every rule could do its work",
    why="A rule that crashed has checked nothing, and silence would look like a pass.",
    fix="save the adapter again with peft; if it stays, report it with the adapter's config",
)
def internal_error(context: LintContext) -> Iterator[Violation]:
    """Yield nothing: `lint` itself reports under this id."""
    yield from ()
