"""Family config: paths and addresses in fields whose values nothing reads."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.config_schema import FIELDS
from phi3_lora_qa.adapter.config_values import ignored_object
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation
from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.path_texts import paths_below
from phi3_lora_qa.adapter.rule import rule

_SHOWN, _LONGEST = 4, 60
_NOTES = ("peft_version",)
"""Fields of peft that are read as text, and that no loader acts on."""


@rule(
    "config-unread-path",
    severity=Severity.WARNING,
    title="No field that nothing reads contains a path or an address",
    why="A path tells everybody the names of the training machine, its users and its folders. "
    "A loader of another version, or one change of init_lora_weights, makes it a file that is "
    "opened: peft reads corda_config.cache_file with torch.load. The linter never follows it.",
    fix="remove these entries from adapter_config.json, and the adapter stays the same",
    needs=["config"],
)
def unread_path(context: LintContext) -> Iterator[Violation]:
    """Find paths, file names and addresses outside the fields that loading uses.

    config-machine-path and the rules on targets and patterns report the other fields.
    """
    found = [
        place
        for field, value in context.config.raw.items()
        if field not in FIELDS or FIELDS[field].read is ignored_object or field in _NOTES
        for place in paths_below(field, value)
    ]
    if not found:
        return
    shown = [f"{place:.{_LONGEST}} is {text!r:.{_LONGEST}}" for place, text in found[:_SHOWN]]
    if more := len(found) - len(shown):
        shown.append(f"and {more} more")
    count = "a path" if len(found) == 1 else f"{len(found)} paths"
    field = found[0][0].partition(".")[0].partition("[")[0].partition(":")[0]
    message = f"{count} in fields that nothing reads: {', '.join(shown)}"
    yield Violation(FieldOf(CONFIG, field), message)
