"""Family files: whether the folder is a LoRA adapter of PEFT.

If it is something else, only the rules on any folder run: what the others would say about another
format would be untrue.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule


@rule(
    "files-format",
    severity=Severity.ERROR,
    title="The folder is a LoRA adapter of PEFT",
    why="PEFT, vLLM and this tool load only that. Another program's adapter, another kind of "
    "adapter, a merged model and a training checkpoint have other files, names or meanings.",
    fix="convert it to a LoRA adapter of PEFT, or train one",
    any_folder=True,
)
def adapter_format(context: LintContext) -> Iterator[Violation]:
    """Find folders that are clearly something else."""
    if found := context.identity.foreign_format:
        message = f"this is not a LoRA adapter of PEFT, but {found.kind}: {found.found}"
        yield Violation(found.where, message, found.fix)
