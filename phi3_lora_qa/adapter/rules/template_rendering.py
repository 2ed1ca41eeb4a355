"""Family tokenizer, continued: the chat template makes prompts, within limits on its work.

A template that is known to be good, or the base's own, is not rendered again: that would cost a
process for each adapter.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from weakref import WeakKeyDictionary

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.chat_template.template_files import DEFAULT, ChatTemplate
from phi3_lora_qa.adapter.chat_template.template_rendering import (
    Comparison,
    Conversation,
    Refusal,
    Rendering,
    render_and_compare,
)
from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS, read_object, special_token
from phi3_lora_qa.errors import AdapterError

_TINY, _MINI, _MINI_35 = "tiny", "Phi-3-mini", "Phi-3.5-mini"
KNOWN_GOOD = {
    # The bundled tiny base's (phi3_lora_qa/bundled/tiny/base/chat_template.jinja).
    "0da6d693a13296c584f8dfac9ca988401e740aea35a94f2db32e97d36fa3a777": _TINY,
    # As Microsoft ships it, and what TRL makes of it to train on answers alone.
    "dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa": _MINI,
    "e07f1f264b65432cef327dc6be58004bfaf44eb6ed305abae42c33211c1cc92e": _MINI,
    "78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90": _MINI_35,
    "a76a9651a9785afe269c6b91598d55f03ab8adf3d8489a4a9c8ef432128b7c08": _MINI_35,
}
"""Whose template it is, by `template_hash`: it is known what comes of it."""

# What Phi-3's tokenizer has, for a folder whose own settings do not say.
_PHI3_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<unk>",
}

# No space at the ends, which many templates trim; nothing that HTML or JSON would escape.
_QUESTION, _ANSWER, _NEXT = "Where do 17 Grey herons nest?", "In Tall trees.", "And how High?"
_ASKED = (("user", _QUESTION),)
_CONVERSATIONS = (
    Conversation(messages=_ASKED),
    Conversation(messages=_ASKED, add_generation_prompt=True),
    Conversation(
        messages=(*_ASKED, ("assistant", _ANSWER), ("user", _NEXT)), add_generation_prompt=True
    ),
    Conversation(messages=(("system", "Be Brief."), *_ASKED), add_generation_prompt=True),
)
_PLAIN, _PROMPT, _CHAT, _SYSTEM = range(4)


@dataclass(frozen=True)
class _Work:
    rendered: dict[str, Rendering]
    compared: dict[tuple[str, str], Comparison]


_worked: WeakKeyDictionary[LintContext, _Work] = WeakKeyDictionary()


@rule(
    "tokenizer-template-fails",
    severity=Severity.ERROR,
    title="The chat template can be rendered, within limits on time, memory and output",
    why="Whoever serves the adapter with this tokenizer fails at the first request, or is kept "
    "busy by it without end.",
    fix="save the base's own tokenizer beside the adapter",
    needs=["tokenizer"],
)
def fails(context: LintContext) -> Iterator[Violation]:
    """Render ordinary conversations; a template need not take a system message."""
    if context.templates is None:
        return  # tokenizer-unreadable says it
    taken, default = context.templates.active, context.templates.main
    if taken and default is None:
        first = next(iter(taken.values()))
        yield Violation(first.file, f"there are chat templates, and none has the name {DEFAULT!r}")
    rendering = rendered(context).get(default.text) if default else None
    if default is None or rendering is None:
        return
    if rendering.error:
        yield Violation(default.file, f"the chat template cannot be rendered: {rendering.error}")
        return
    for number in (_PROMPT, _CHAT):
        text = rendering.texts[number]
        if isinstance(text, Refusal):
            yield Violation(
                default.file,
                f"the chat template refuses the messages {_roles(number)}: {text.message!r}",
            )
            return


@rule(
    "tokenizer-template-prompt",
    severity=Severity.WARNING,
    title="A prompt holds what the user wrote, and leads up to the answer",
    why="Without the words that open an answer the model goes on with the user's turn; without "
    "the user's own it answers another question.",
    fix="save the base's own tokenizer beside the adapter, or end the template as Phi-3's does: "
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    needs=["tokenizer"],
)
def prompt(context: LintContext) -> Iterator[Violation]:
    """Find prompts in which nothing opens the answer, or the user's text is not as it was."""
    template = context.templates.main if context.templates else None
    rendering = rendered(context).get(template.text) if template else None
    if template is None or rendering is None or rendering.error:
        return
    if _unopened(rendering):
        yield Violation(
            template.file,
            "the prompt is the same with add_generation_prompt and without, and lacks what "
            "stands before an answer",
        )
    for number in (_PROMPT, _CHAT, _SYSTEM):
        text = rendering.texts[number]
        asked = [content for role, content in _CONVERSATIONS[number].messages if role == "user"]
        if isinstance(text, str) and not all(content in text for content in asked):
            yield Violation(
                template.file,
                f"of the messages {_roles(number)}, what the user wrote is not in the prompt "
                "as it was written",
            )
            return


@rule(
    "tokenizer-template-end",
    severity=Severity.WARNING,
    title="The marker that ends an answer is a token",
    why="A template of another model ends answers with a marker that this vocabulary does not "
    "have: it is cut into pieces, none of which one could stop at.",
    fix="save the base's own tokenizer beside the adapter, or add the token and train its row",
    needs=["tokenizer"],
)
def end(context: LintContext) -> Iterator[Violation]:
    """Find a marker such as <|im_end|> behind an answer that the vocabulary lacks."""
    template = context.templates.main if context.templates else None
    rendering = rendered(context).get(template.text) if template else None
    own = context.tokenizer
    if template is None or own is None or rendering is None or rendering.error:
        return
    text = rendering.texts[_CHAT]
    marker = _MARKER.match(text.partition(_ANSWER)[2]) if isinstance(text, str) else None
    if marker and marker[1] not in own.tokens:
        yield Violation(template.file, f"an answer ends with {marker[1]}, which is no token")


_MARKER = re.compile(r"\s*(<\|?[A-Za-z0-9_]{1,40}\|?>)")


def _unopened(rendering: Rendering) -> bool:
    """Whether a prompt ends before the words that open an answer.

    Some templates write these after every question, asked or not (Phi-3-medium's does), and some
    chats have none; there the answer itself goes on where the prompt ends.
    """
    plain, opened, chat = (rendering.texts[n] for n in (_PLAIN, _PROMPT, _CHAT))
    if not isinstance(opened, str) or not isinstance(chat, str) or opened != plain:
        return False
    rest = chat[len(opened) :].lstrip() if chat.startswith(opened) else ""
    return not rest.startswith(_ANSWER)


class Likeness(StrEnum):
    """How much two templates are alike."""

    SAME = "they write the same, and are only written otherwise"
    SEEMING = "they write the same in the conversations that were drawn"
    HIDDEN = "they do so, but there are branches that no conversation took"
    NONE = "they write something else, or cannot be rendered"


@dataclass(frozen=True)
class Likened:
    """How much two templates are alike, and what is known of it."""

    likeness: Likeness
    comparison: Comparison


def compare(context: LintContext, ours: ChatTemplate, theirs: ChatTemplate) -> Likened:
    """Tell how much a template of the adapter and another one are alike."""
    if _is_plainly_same(ours, theirs):
        return Likened(Likeness.SAME, Comparison(same_form=True))
    found = _work(context).compared[ours.text, theirs.text]
    if found.difference or found.error:
        likeness = Likeness.NONE
    elif found.same_form:
        likeness = Likeness.SAME
    else:
        likeness = Likeness.HIDDEN if found.uncovered_lines else Likeness.SEEMING
    return Likened(likeness, found)


def counterpart(context: LintContext, template: ChatTemplate) -> ChatTemplate | None:
    """Return the base's template of the same name, where there is a base that has one."""
    return context.base_templates.active.get(template.name) if context.has("base") else None


def winner(context: LintContext, template: ChatTemplate) -> ChatTemplate | None:
    """Return the template that transformers takes in place of one that is shadowed."""
    taken = context.templates.active if context.templates else {}
    return taken.get(template.name) or taken.get(DEFAULT)


def rendered(context: LintContext) -> dict[str, Rendering]:
    """Return what came of each template of which that must be known, by its text."""
    return _work(context).rendered


def _work(context: LintContext) -> _Work:
    """Render and compare, once for each subject, in one child; the subject's end is the entry's."""
    if context not in _worked:
        texts, pairs = _to_do(context)
        found: tuple[tuple[Rendering, ...], tuple[Comparison, ...]] = ((), ())
        if texts:
            tokens = _special_tokens(context)
            found = render_and_compare(texts, _CONVERSATIONS, tokens, pairs)
        _worked[context] = _Work(
            dict(zip(texts, found[0], strict=True)), dict(zip(pairs, found[1], strict=True))
        )
    return _worked[context]


def _to_do(context: LintContext) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the texts that are not known to be good, and pairs that are to be compared."""
    if context.templates is None:
        return [], []
    taken, shadowed = context.templates.active.values(), context.templates.shadowed
    texts, pairs = [], []
    for template in (*taken, *shadowed):
        others = [counterpart(context, template)]
        if template in shadowed:
            others.append(winner(context, template))
        differing = [o for o in others if o and not _is_plainly_same(template, o)]
        if differing or (not any(others) and template_hash(template.text) not in KNOWN_GOOD):
            texts += [template.text, *(other.text for other in differing)]
            pairs += [(template.text, other.text) for other in differing]
    return list(dict.fromkeys(texts)), list(dict.fromkeys(pairs))


def _is_plainly_same(ours: ChatTemplate, theirs: ChatTemplate) -> bool:
    known = KNOWN_GOOD.get(template_hash(ours.text))
    same_known = known is not None and known == KNOWN_GOOD.get(template_hash(theirs.text))
    return ours.text == theirs.text or same_known


def _special_tokens(context: LintContext) -> dict[str, str]:
    """Return what a template sees as bos_token and so on; a token set to null it does not see."""
    tokens = dict(_PHI3_TOKENS)
    folders: list[AdapterFolder | BaseFiles] = [context.base] if context.has("base") else []
    for folder in (*folders, context.folder):
        try:
            settings = read_object(folder, SETTINGS)
            for name in settings:
                if name.endswith("_token"):
                    text = special_token(settings, name)
                    tokens.pop(name, None)
                    tokens |= {} if text is None else {name: text}
        except AdapterError:
            continue  # a template in a file of its own may stand beside damaged settings
    return tokens


def _roles(number: int) -> str:
    return ", ".join(role for role, _ in _CONVERSATIONS[number].messages)
