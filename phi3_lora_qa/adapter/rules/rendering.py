"""Family tokenizer, continued: the chat template makes prompts, within limits on its work.

A template that is known to be good, or the base's own, is not rendered again: that would cost a
process for each adapter.
"""

from collections.abc import Iterator
from weakref import WeakKeyDictionary

from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.adapter.finding import Hit, Severity, rule
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.adapter.rendering import Conversation, Refusal, Rendering, render
from phi3_lora_qa.adapter.subject import Subject
from phi3_lora_qa.adapter.templates import (
    SETTINGS,
    TEMPLATE,
    special_token,
    tokenizer_settings,
)
from phi3_lora_qa.errors import AdapterError

KNOWN_GOOD = frozenset(
    {
        # The bundled tiny base's (fixtures/tiny/base/chat_template.jinja).
        "0da6d693a13296c584f8dfac9ca988401e740aea35a94f2db32e97d36fa3a777",
        # Phi-3-mini's as Microsoft ships it, and what TRL makes of it to train on answers alone.
        "dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa",
        "e07f1f264b65432cef327dc6be58004bfaf44eb6ed305abae42c33211c1cc92e",
        # Phi-3.5-mini's, and likewise.
        "78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90",
        "a76a9651a9785afe269c6b91598d55f03ab8adf3d8489a4a9c8ef432128b7c08",
    }
)
"""`template_hash` of templates that are not rendered, as it is known what comes of them."""

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

_rendered: WeakKeyDictionary[Subject, Rendering | None] = WeakKeyDictionary()


@rule(
    "tokenizer-template-fails",
    severity=Severity.ERROR,
    title="The chat template can be rendered, within limits on time, memory and output",
    why="Whoever serves the adapter with this tokenizer fails at the first request, or is kept "
    "busy by it without end.",
    fix="save the base's own tokenizer beside the adapter",
    needs=["tokenizer"],
)
def fails(subject: Subject) -> Iterator[Hit]:
    """Render ordinary conversations; a template need not take a system message."""
    rendering = _rendering(subject)
    if rendering is None:
        return
    if rendering.error:
        yield Hit(_where(subject), f"the chat template cannot be rendered: {rendering.error}")
        return
    for number in (_PROMPT, _CHAT):
        text = rendering.texts[number]
        if isinstance(text, Refusal):
            yield Hit(
                _where(subject),
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
def prompt(subject: Subject) -> Iterator[Hit]:
    """Find prompts in which nothing opens the answer, or the user's text is not as it was."""
    rendering = _rendering(subject)
    if rendering is None or rendering.error:
        return
    if _unopened(rendering):
        yield Hit(
            _where(subject),
            "the prompt is the same with add_generation_prompt and without, and lacks what "
            "stands before an answer",
        )
    for number in (_PROMPT, _CHAT, _SYSTEM):
        text = rendering.texts[number]
        asked = [content for role, content in _CONVERSATIONS[number].messages if role == "user"]
        if isinstance(text, str) and not all(content in text for content in asked):
            yield Hit(
                _where(subject),
                f"of the messages {_roles(number)}, what the user wrote is not in the prompt "
                "as it was written",
            )
            return


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


def _rendering(subject: Subject) -> Rendering | None:
    """Return what came of the adapter's own template, or None where there is none to render.

    Rendered once for each subject, as two rules ask; the subject's end is the entry's end.
    """
    if subject not in _rendered:
        own = subject.template
        if (
            own is None
            or template_hash(own) in KNOWN_GOOD
            or (subject.has("base") and own == subject.base_template)
        ):
            _rendered[subject] = None
        else:
            _rendered[subject] = render(own, _CONVERSATIONS, _special_tokens(subject))
    return _rendered[subject]


def _special_tokens(subject: Subject) -> dict[str, str]:
    """Return what a template sees as bos_token and so on; a token set to null it does not see."""
    tokens = dict(_PHI3_TOKENS)
    folders: list[AdapterFolder | BaseFiles] = [subject.base] if subject.has("base") else []
    for folder in (*folders, subject.folder):
        try:
            settings = tokenizer_settings(folder)
        except AdapterError:
            continue  # a template in a file of its own may stand beside damaged settings
        for name in settings:
            if name.endswith("_token"):
                text = special_token(settings, name)
                tokens.pop(name, None)
                tokens |= {} if text is None else {name: text}
    return tokens


def _where(subject: Subject) -> str:
    return TEMPLATE if subject.folder.file(TEMPLATE) else SETTINGS


def _roles(number: int) -> str:
    return ", ".join(role for role, _ in _CONVERSATIONS[number].messages)
