"""Family tokenizer, continued: the chat templates are the base's, and there is one of them."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.chat_template.template_files import DEFAULT, ChatTemplate
from phi3_lora_qa.adapter.chat_template.template_rendering import Comparison
from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.adapter.rules.template_rendering import (
    Likeness,
    compare,
    counterpart,
    rendered,
    winner,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS


@rule(
    "tokenizer-template",
    severity=Severity.ERROR,
    title="The chat template writes what the base's does",
    why="With another template the adapter sees prompts that it was not trained on; a template "
    "can also add text to a prompt that nobody sees, and wait for a word, a length or a date to do "
    "so. Conversations are drawn to take every branch of both; a branch that none of them takes "
    "counts as a difference. What a manifest says of it changes nothing: it comes from whom the "
    "template comes from.",
    fix="save the base's own tokenizer beside the adapter; or, if you trust the template, give the "
    "rule another level: --level tokenizer-template=warning",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def template(context: LintContext) -> Iterator[Violation]:
    """Find templates that write otherwise than the base's, and one that is gone."""
    for ours, theirs in _pairs(context):
        likened = compare(context, ours, theirs)
        said = ", as the manifest says" if _is_declared(context, ours) else ""
        if likened.likeness is Likeness.NONE:
            yield Violation(ours.file, f"{_called(ours)} {_otherwise(likened.comparison)}{said}")
        elif likened.likeness is Likeness.HIDDEN:
            line = likened.comparison.uncovered_lines[0]
            yield Violation(
                ours.file,
                f"{_called(ours)} has a branch that none of {likened.comparison.conversations} "
                f"conversations took, and that the base's does not have, in line {line}: "
                f"{_quoted(ours, line)}{said}",
            )
    found = context.templates
    if found and not found.active and context.base_templates.default and context.tokenizer:
        yield Violation(SETTINGS, "the tokenizer has no chat template, and the base's has one")


@rule(
    "tokenizer-template-wording",
    severity=Severity.WARNING,
    title="The chat template is written as the base's",
    why="It wrote the same as the base's in every conversation that was drawn to take its "
    "branches. Whether it does so in all others, only reading it tells.",
    fix="read the template, or save the base's own tokenizer beside the adapter",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def wording(context: LintContext) -> Iterator[Violation]:
    """Find templates of which it is not certain that they always write what the base's does."""
    for ours, theirs in _pairs(context):
        likened = compare(context, ours, theirs)
        if likened.likeness is Likeness.SEEMING:
            at = _first_difference(ours.text, theirs.text)
            found = likened.comparison
            yield Violation(
                ours.file,
                f"{_called(ours)} wrote the same in {found.conversations} conversations, which "
                f"took every branch of its {found.branches} conditions; it is written otherwise than "
                f"the base's from {ours.text[at : at + 60]!r} on",
            )


@rule(
    "tokenizer-template-second",
    severity=Severity.WARNING,
    title="There is no chat template besides the default one, unless the base has it too",
    why="transformers takes the template tool_use when tools are given, and others when asked to: "
    "the default one is then not what makes the prompt.",
    fix="read the template, or remove it",
    needs=["tokenizer"],
)
def second(context: LintContext) -> Iterator[Violation]:
    """Find further templates that the base does not have."""
    for ours in _all(context):
        if ours.name == DEFAULT or counterpart(context, ours):
            continue
        rendering = rendered(context).get(ours.text)
        error = rendering.error if rendering else ""
        failed = f", and it cannot be rendered: {error}" if error else ""
        yield Violation(ours.file, f"there is a second chat template, {ours.name!r}{failed}")


@rule(
    "tokenizer-template-twice",
    severity=Severity.ERROR,
    title="Every program takes the same chat template from the folder",
    why="Older versions of transformers, and other programs, take the template from another file "
    "than newer ones: prompts differ by who serves the adapter.",
    fix="save the tokenizer again, and remove the template that is not meant",
    needs=["tokenizer"],
)
def twice(context: LintContext) -> Iterator[Violation]:
    """Find default templates that another one of the folder hides, and that write otherwise."""
    for ours in context.templates.shadowed if context.templates else ():
        taken = winner(context, ours)
        if taken is None or ours.name != DEFAULT or counterpart(context, ours):
            continue  # compared with the base's, each for itself
        if compare(context, ours, taken).likeness in (Likeness.NONE, Likeness.HIDDEN):
            yield Violation(ours.file, f"{_called(ours)} here is not the one in {taken.file}")


def _all(context: LintContext) -> tuple[ChatTemplate, ...]:
    found = context.templates
    return (*found.active.values(), *found.shadowed) if found else ()


def _pairs(context: LintContext) -> Iterator[tuple[ChatTemplate, ChatTemplate]]:
    for ours in _all(context):
        theirs = counterpart(context, ours)
        if theirs is not None:
            yield ours, theirs


def _is_declared(context: LintContext, ours: ChatTemplate) -> bool:
    declared = context.manifest.chat_template_sha256 if context.has("manifest") else None
    return template_hash(ours.text) == declared


def _called(template: ChatTemplate) -> str:
    named = "" if template.name == DEFAULT else f" {template.name!r}"
    return f"the chat template{named}"


def _otherwise(comparison: Comparison) -> str:
    """Return what was found to differ from the base's."""
    found = comparison.difference
    if found is None:
        return f"cannot be compared with the base's: it {comparison.error}"
    ours, theirs = (
        "nothing" if text is None else repr(text) for text in (found.ours, found.theirs)
    )
    return f"writes {ours} where the base's writes {theirs}, given {found.conversation}"


def _quoted(template: ChatTemplate, line: int) -> str:
    lines = template.text.splitlines()
    return repr(lines[line - 1].strip()[:60]) if 0 < line <= len(lines) else "''"


def _first_difference(ours: str, theirs: str) -> int:
    pairs = zip(ours, theirs, strict=False)
    length = min(len(ours), len(theirs))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), length)
