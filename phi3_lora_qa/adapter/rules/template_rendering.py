"""Family tokenizer: the chat template renders prompts, within limits on its resources."""

import re
from collections.abc import Iterator

from phi3_lora_qa.adapter.chat_template.template_files import DEFAULT, ChatTemplate
from phi3_lora_qa.adapter.chat_template.template_rendering import Refusal, Rendering
from phi3_lora_qa.adapter.chat_template.template_results import (
    ANSWER,
    CHAT,
    CONVERSATIONS,
    PLAIN,
    PROMPT,
    SYSTEM,
)
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule


@rule(
    "tokenizer-template-fails",
    severity=Severity.ERROR,
    title="The chat template renders within limits on time, memory and output",
    why="A server that uses this tokenizer fails at the first request, or never finishes "
    "rendering.",
    fix="save the base's own tokenizer with the adapter",
    needs=["tokenizer"],
)
def fails(context: LintContext) -> Iterator[Violation]:
    """Render ordinary conversations. A template need not accept a system message."""
    if context.templates is None:
        return  # tokenizer-unreadable reports it
    taken, default = context.templates.active, context.templates.main
    if taken and default is None:
        first = next(iter(taken.values()))
        yield Violation(first.file, f"there are chat templates, but none with the name {DEFAULT!r}")
    rendering = context.template_results.rendered.get(default.text) if default else None
    if default is None or rendering is None:
        return
    if rendering.error:
        yield Violation(default.file, f"the chat template cannot be rendered: {rendering.error}")
        return
    for number in (PROMPT, CHAT):
        text = rendering.texts[number]
        if isinstance(text, Refusal):
            yield Violation(
                default.file,
                f"the chat template rejects the messages {_roles(number)}: {text.message!r}",
            )
            return


@rule(
    "tokenizer-template-prompt",
    severity=Severity.WARNING,
    title="The prompt contains the user's text and opens the assistant's answer",
    why="If nothing opens the answer, the model continues the user's turn. If the user's text is "
    "missing, it answers a different question.",
    fix="save the base's own tokenizer with the adapter, or end the template as Phi-3's does: "
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    needs=["tokenizer"],
)
def prompt(context: LintContext) -> Iterator[Violation]:
    """Find prompts that do not open the answer, or in which the user's text is changed."""
    found = _rendered(context)
    if found is None:
        return
    template, rendering = found
    if _unopened(rendering):
        yield Violation(
            template.file,
            "nothing opens the answer: the prompt is the same with and without "
            "add_generation_prompt",
        )
    for number in (PROMPT, CHAT, SYSTEM):
        text = rendering.texts[number]
        written = [content for role, content in CONVERSATIONS[number].messages if role == "user"]
        if isinstance(text, str) and not all(content in text for content in written):
            yield Violation(
                template.file,
                f"the prompt for the messages {_roles(number)} does not contain the user's text "
                "unchanged",
            )
            return


@rule(
    "tokenizer-template-end",
    severity=Severity.WARNING,
    title="The marker that ends an answer is a token",
    why="A template of another model ends answers with a marker that this vocabulary lacks. The "
    "marker is split into several tokens, none of which can serve as a stop token.",
    fix="save the base's own tokenizer with the adapter, or add the token and train its row",
    needs=["tokenizer"],
)
def end(context: LintContext) -> Iterator[Violation]:
    """Find an end marker such as <|im_end|> that the vocabulary lacks."""
    found, own = _rendered(context), context.tokenizer
    if found is None or own is None:
        return
    template, rendering = found
    text = rendering.texts[CHAT]
    marker = _MARKER.match(text.partition(ANSWER)[2]) if isinstance(text, str) else None
    if marker and marker[1] not in own.tokens:
        yield Violation(template.file, f"an answer ends with {marker[1]}, which is not a token")


_MARKER = re.compile(r"\s*(<\|?[A-Za-z0-9_]{1,40}\|?>)")


def _rendered(context: LintContext) -> tuple[ChatTemplate, Rendering] | None:
    """Return the main template and its renderings, if it was rendered without an error."""
    template = context.templates.main if context.templates else None
    rendering = context.template_results.rendered.get(template.text) if template else None
    if template is None or rendering is None or rendering.error:
        return None
    return template, rendering


def _unopened(rendering: Rendering) -> bool:
    """Whether a prompt ends before the text that opens an answer.

    Some templates write this text after every question, with or without add_generation_prompt
    (Phi-3-medium's does), and some formats have none; there the answer follows the prompt directly.
    """
    plain, opened, chat = (rendering.texts[n] for n in (PLAIN, PROMPT, CHAT))
    if not isinstance(opened, str) or not isinstance(chat, str) or opened != plain:
        return False
    rest = chat[len(opened) :].lstrip() if chat.startswith(opened) else ""
    return not rest.startswith(ANSWER)


def _roles(number: int) -> str:
    return ", ".join(role for role, _ in CONVERSATIONS[number].messages)
