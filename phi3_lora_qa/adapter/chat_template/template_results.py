"""Renders and compares the chat templates of one adapter, all in one child process.

A template that is known to be good, or equals the base's, is not rendered: each run of the child
process costs time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.chat_template.template_files import DEFAULT, ChatTemplate, ChatTemplates
from phi3_lora_qa.adapter.chat_template.template_rendering import (
    Comparison,
    Conversation,
    Rendering,
    render_and_compare,
)
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS, read_object, special_token
from phi3_lora_qa.errors import AdapterError

_TINY, _MINI, _MINI_35 = "tiny", "Phi-3-mini", "Phi-3.5-mini"
KNOWN_GOOD = {
    # The bundled tiny base's (phi3_lora_qa/bundled/tiny/base/chat_template.jinja).
    "0da6d693a13296c584f8dfac9ca988401e740aea35a94f2db32e97d36fa3a777": _TINY,
    # Microsoft's, and TRL's variants of them for training on answers only.
    "dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa": _MINI,
    "e07f1f264b65432cef327dc6be58004bfaf44eb6ed305abae42c33211c1cc92e": _MINI,
    "78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90": _MINI_35,
    "a76a9651a9785afe269c6b91598d55f03ab8adf3d8489a4a9c8ef432128b7c08": _MINI_35,
}
"""The model to which a template belongs, by `template_hash`. These templates render correctly."""

# The tokens of Phi-3's tokenizer, for a folder whose own settings do not name them.
_PHI3_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<unk>",
}

# No space at the ends, because many templates trim them, and nothing that HTML or JSON escapes.
QUESTION, ANSWER, NEXT_QUESTION = "Where do 17 Grey herons nest?", "In Tall trees.", "And how High?"
_USER = (("user", QUESTION),)
CONVERSATIONS = (
    Conversation(messages=_USER),
    Conversation(messages=_USER, add_generation_prompt=True),
    Conversation(
        messages=(*_USER, ("assistant", ANSWER), ("user", NEXT_QUESTION)),
        add_generation_prompt=True,
    ),
    Conversation(messages=(("system", "Be Brief."), *_USER), add_generation_prompt=True),
)
"""The conversations that every template is rendered with."""

PLAIN, PROMPT, CHAT, SYSTEM = range(4)
"""The positions in `CONVERSATIONS`."""


class TemplateMatch(StrEnum):
    """The result of a comparison of two templates."""

    SAME = "they render the same text, and differ only in their source"
    SEEMS_SAME = "they render the same text in all generated conversations"
    UNRENDERED_TEXT = "they render the same text, but one has a text that was never rendered"
    UNREACHED_BRANCH = "they render the same text, but some branches were never taken"
    DIFFERENT = "they render different texts, or cannot be rendered"


@dataclass(frozen=True)
class MatchedTemplates:
    """The match of two templates, and the comparison behind it."""

    match: TemplateMatch
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class TemplateResults:
    """The renderings and comparisons of an adapter's templates.

    Attributes:
        rendered: The renderings of `CONVERSATIONS` by the template's text.
        compared: The comparisons by the texts of both templates.
    """

    rendered: Mapping[str, Rendering] = field(default_factory=dict)
    compared: Mapping[tuple[str, str], Comparison] = field(default_factory=dict)

    def match(self, ours: ChatTemplate, theirs: ChatTemplate) -> MatchedTemplates:
        """Return how well a template of the adapter matches another one."""
        if is_plainly_same(ours, theirs):
            return MatchedTemplates(TemplateMatch.SAME, Comparison(same_form=True))
        found = self.compared[ours.text, theirs.text]
        if found.difference or found.error:
            match = TemplateMatch.DIFFERENT
        elif found.same_form:
            match = TemplateMatch.SAME
        else:
            match = TemplateMatch.SEEMS_SAME
            if found.uncovered_lines:
                match = TemplateMatch.UNREACHED_BRANCH
            elif found.unrendered:
                match = TemplateMatch.UNRENDERED_TEXT
        return MatchedTemplates(match, found)


def render_templates(
    own: ChatTemplates, base: ChatTemplates | None, folders: Iterable[AdapterFolder | BaseFiles]
) -> TemplateResults:
    """Render and compare every template whose result is not known, in one child process.

    Args:
        own: The adapter's templates.
        base: The base's templates, if there is a base.
        folders: The folders whose tokenizer settings name the special tokens, the base's first.

    Raises:
        MachineError: The child process could not be started.
    """
    texts, pairs = _unknown(own, base)
    if not texts:
        return TemplateResults()
    rendered, compared = render_and_compare(texts, CONVERSATIONS, special_tokens(folders), pairs)
    return TemplateResults(
        rendered=dict(zip(texts, rendered, strict=True)),
        compared=dict(zip(pairs, compared, strict=True)),
    )


def shadowing(own: ChatTemplates, template: ChatTemplate) -> ChatTemplate | None:
    """Return the template that transformers takes instead of a shadowed one."""
    return own.active.get(template.name) or own.active.get(DEFAULT)


def is_plainly_same(ours: ChatTemplate, theirs: ChatTemplate) -> bool:
    """Whether two templates have the same text, or are known variants of the same template."""
    known = KNOWN_GOOD.get(template_hash(ours.text))
    same_known = known is not None and known == KNOWN_GOOD.get(template_hash(theirs.text))
    return ours.text == theirs.text or same_known


def _unknown(
    own: ChatTemplates, base: ChatTemplates | None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the texts of templates that are not known to be good, and the pairs to compare."""
    texts, pairs = [], []
    for template in (*own.active.values(), *own.shadowed):
        others = [base.active.get(template.name) if base else None]
        if template in own.shadowed:
            others.append(shadowing(own, template))
        differing = [other for other in others if other and not is_plainly_same(template, other)]
        if differing or (not any(others) and template_hash(template.text) not in KNOWN_GOOD):
            texts += [template.text, *(other.text for other in differing)]
            pairs += [(template.text, other.text) for other in differing]
    return list(dict.fromkeys(texts)), list(dict.fromkeys(pairs))


def special_tokens(folders: Iterable[AdapterFolder | BaseFiles]) -> dict[str, str]:
    """Return the values of bos_token etc. for the templates; a token set to null is undefined."""
    tokens = dict(_PHI3_TOKENS)
    for folder in folders:
        try:
            settings = read_object(folder, SETTINGS)
            for name in settings:
                if name.endswith("_token"):
                    text = special_token(settings, name)
                    tokens.pop(name, None)
                    tokens |= {} if text is None else {name: text}
        except AdapterError:
            continue  # the template may be in its own file, next to damaged settings
    return tokens
