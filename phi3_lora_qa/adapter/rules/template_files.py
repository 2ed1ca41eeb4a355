"""Family tokenizer: the folder has one chat template, and it renders as the base's."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.base_checks.unseen_turns import try_template
from phi3_lora_qa.adapter.chat_template.template_files import DEFAULT, ChatTemplate
from phi3_lora_qa.adapter.chat_template.template_rendering import Comparison
from phi3_lora_qa.adapter.chat_template.template_results import (
    TemplateMatch,
    shadowing,
    special_tokens,
)
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS

_SOFTEN = (
    "--level tokenizer-template=warning, or in the gate "
    "--phi3-lint-levels tokenizer-template=warning"
)
_FAULTY_BASE = (
    "use a base whose chat template shows every turn (basemodel-template-drops-turns), and not "
    "this base's tokenizer; or, if you trust the adapter's template, change the rule's level: "
    + _SOFTEN
)


@rule(
    "tokenizer-template",
    severity=Severity.ERROR,
    title="The chat template renders the same text as the base's",
    why="With another template the adapter sees prompts that it was not trained on. A template "
    "can also add hidden text to a prompt, triggered by a word, a length or a date. Conversations "
    "are generated to take every branch of both templates; a branch that none of them takes "
    "counts as a difference. A manifest that records the template does not change this, because "
    "it comes from the same source as the template.",
    fix="save the base's own tokenizer with the adapter; or, if you trust the template, change "
    f"the rule's level: {_SOFTEN}",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def template(context: LintContext) -> Iterator[Violation]:
    """Find templates that render differently from the base's, and missing ones."""
    for ours, theirs in _pairs(context):
        result = context.template_results.match(ours, theirs)
        comparison = result.comparison
        recorded = " (the manifest records this template)" if _is_recorded(context, ours) else ""
        if result.match is TemplateMatch.DIFFERENT:
            message = f"{_label(ours)} {_describe_difference(comparison)}{recorded}"
            if _base_drops_turns(context, ours, theirs):
                message += "; the base's leaves out turns that this one shows"
                yield Violation(ours.file, message, _FAULTY_BASE)
            else:
                yield Violation(ours.file, message)
        elif result.match is TemplateMatch.UNREACHED_BRANCH:
            line = comparison.uncovered_lines[0]
            yield Violation(
                ours.file,
                f"{_label(ours)} has a branch that the base's lacks and that none of "
                f"{comparison.conversations} conversations took, in line {line}"
                f"{_named(comparison, line)}{_hidden(comparison)}{recorded}",
            )
        elif result.match is TemplateMatch.UNRENDERED_TEXT:
            yield Violation(
                ours.file,
                f"{_label(ours)} has a text that the base's lacks and that none of "
                f"{comparison.conversations} conversations showed: {comparison.unrendered[0]!r}"
                f"{recorded}",
            )
    found = context.templates
    if found and not found.active and context.base_templates.default and context.tokenizer:
        yield Violation(SETTINGS, "the tokenizer has no chat template, but the base's has one")


@rule(
    "tokenizer-template-branches",
    severity=Severity.WARNING,
    title="The chat template has no branch of its own on what a message says",
    why="The template looks for a word, a length or the like that the base's does not look for. It "
    "rendered the same text as the base's in every generated conversation, with and without the "
    "word; but a template that reads messages is the place to hide text for some of them.",
    fix="review the branch, or save the base's own tokenizer with the adapter",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def branches(context: LintContext) -> Iterator[Violation]:
    """Find templates that render the same text but compare more with the contents of messages."""
    for ours, theirs in _pairs(context):
        result = context.template_results.match(ours, theirs)
        found = result.comparison
        if result.match is TemplateMatch.SEEMS_SAME and found.triggers:
            shown = ", ".join(f"{t.value!r} in line {t.line}" for t in found.triggers[:3])
            yield Violation(
                ours.file,
                f"{_label(ours)} compares what a message says with {shown}; it rendered the same "
                f"text as the base's in {found.conversations} conversations",
            )


@rule(
    "tokenizer-template-wording",
    severity=Severity.INFO,
    title="The chat template has the same source text as the base's",
    why="It rendered the same prompts as the base's in every generated conversation. Only a review "
    "can show whether it does so in every other conversation.",
    fix="review the template, or save the base's own tokenizer with the adapter",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def wording(context: LintContext) -> Iterator[Violation]:
    """Find templates that may render differently from the base's in some conversation."""
    for ours, theirs in _pairs(context):
        result = context.template_results.match(ours, theirs)
        found = result.comparison
        is_tolerated = found.finished_chat or found.other_role
        if result.match is TemplateMatch.SEEMS_SAME and not found.triggers and not is_tolerated:
            yield Violation(
                ours.file,
                f"{_label(ours)} is written differently from the base's, and rendered the same "
                f"text in {found.conversations} conversations, which took every branch of its "
                f"{found.branches} conditions",
            )


@rule(
    "tokenizer-template-training",
    severity=Severity.INFO,
    title="The chat template renders finished chats and other roles as the base's does",
    why="Every prompt of system, user and assistant turns is the base's. A finished chat is only "
    "rendered for training: its last token is the one after the last answer. A role that the "
    "base's template leaves out is rendered like a user's turn.",
    fix="nothing to do; if you train again, train with the base's own template",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def training(context: LintContext) -> Iterator[Violation]:
    """Find differences that affect no prompt of ordinary turns."""
    for ours, theirs in _pairs(context):
        result = context.template_results.match(ours, theirs)
        if result.match is TemplateMatch.DIFFERENT:
            continue
        for what, found in (
            ("prompts are the base's, but a finished chat", result.comparison.finished_chat),
            ("a role that the base's template leaves out", result.comparison.other_role),
        ):
            if found is not None:
                yield Violation(
                    ours.file,
                    f"{what} is rendered as {found.ours!r}, by the base's as {found.theirs!r}, for "
                    f"{found.conversation}",
                )


@rule(
    "tokenizer-template-second",
    severity=Severity.WARNING,
    title="The folder has no chat templates other than the default one and the base's",
    why="transformers uses the template tool_use if tools are passed, and other templates on "
    "request. The prompt is then not rendered by the default template.",
    fix="review the template, or remove it",
    needs=["tokenizer"],
)
def second(context: LintContext) -> Iterator[Violation]:
    """Find additional templates that the base does not have."""
    for ours in _all(context):
        if ours.name == DEFAULT or _counterpart(context, ours):
            continue
        rendering = context.template_results.rendered.get(ours.text)
        error = rendering.error if rendering else ""
        failed = f", and it cannot be rendered: {error}" if error else ""
        yield Violation(ours.file, f"there is another chat template, {ours.name!r}{failed}")


@rule(
    "tokenizer-template-twice",
    severity=Severity.ERROR,
    title="Every program uses the same chat template from the folder",
    why="Older versions of transformers, and other programs, read the template from another file "
    "than newer versions do, so the prompt depends on the server.",
    fix="save the tokenizer again, and remove the unwanted template",
    needs=["tokenizer"],
)
def twice(context: LintContext) -> Iterator[Violation]:
    """Find default templates that are shadowed by another one and render differently."""
    own = context.templates
    for ours in own.shadowed if own else ():
        taken = shadowing(own, ours) if own else None
        if taken is None or ours.name != DEFAULT or _counterpart(context, ours):
            continue  # each is compared with the base's
        match = context.template_results.match(ours, taken).match
        if match not in (TemplateMatch.SAME, TemplateMatch.SEEMS_SAME):
            yield Violation(ours.file, f"{_label(ours)} here differs from that in {taken.file}")


def _all(context: LintContext) -> tuple[ChatTemplate, ...]:
    found = context.templates
    return (*found.active.values(), *found.shadowed) if found else ()


def _pairs(context: LintContext) -> Iterator[tuple[ChatTemplate, ChatTemplate]]:
    for ours in _all(context):
        theirs = _counterpart(context, ours)
        if theirs is not None:
            yield ours, theirs


def _counterpart(context: LintContext, template: ChatTemplate) -> ChatTemplate | None:
    """Return the base's template of the same name, if there is a base that has one."""
    return context.base_templates.active.get(template.name) if context.has("base") else None


def _base_drops_turns(context: LintContext, ours: ChatTemplate, theirs: ChatTemplate) -> bool:
    """Return whether a prompt of the base's template lacks a turn that the adapter's shows."""
    theirs_lack, ours_lack = (
        {(roles, turn) for roles, turns in (trial.unseen or {}).items() for turn in turns}
        for trial in (
            try_template(template.text, {}, special_tokens((context.base,)))
            for template in (theirs, ours)
        )
    )
    return bool(theirs_lack - ours_lack)


def _is_recorded(context: LintContext, ours: ChatTemplate) -> bool:
    recorded = context.manifest.chat_template_sha256 if context.has("manifest") else None
    return template_hash(ours.text) == recorded


def _label(template: ChatTemplate) -> str:
    named = "" if template.name == DEFAULT else f" {template.name!r}"
    return f"the chat template{named}"


def _describe_difference(comparison: Comparison) -> str:
    """Describe the difference from the base's template."""
    found = comparison.difference
    if found is None:
        return f"cannot be compared with the base's: {comparison.error}"
    ours, theirs = (
        "nothing" if text is None else repr(text) for text in (found.ours, found.theirs)
    )
    said = [t for t in comparison.triggers if t.value in found.conversation]
    looks = f" (line {said[0].line} looks for {said[0].value!r})" if said else ""
    return f"renders {ours}, but the base's renders {theirs}, for {found.conversation}{looks}"


def _named(comparison: Comparison, line: int) -> str:
    """Name what the condition in a line compares with what a message says, if it does so."""
    values = [t.value for t in comparison.triggers if t.line == line]
    return f", where it looks for {', '.join(map(repr, values[:3]))}" if values else ""


def _hidden(comparison: Comparison) -> str:
    """Name a text that only this template has and that it never output."""
    return f"; it never showed {comparison.unrendered[0]!r}" if comparison.unrendered else ""
