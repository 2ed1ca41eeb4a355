"""Generates conversations that are likely to take the branches of chat templates.

First come conversations that any template may get (`ordinary_inputs`, `non_text_inputs`), then
every value that a template mentions, in each position where it may matter (`vocabulary_inputs`),
then small changes of one conversation (`small_changes`; see also `conversation_mutation`). Nothing
is random. The child that renders templates imports this module; see `template_rendering_child`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

QUESTION, ANSWER, NEXT = "Where do 17 Grey herons nest?", "In Tall trees.", "And how High?"
_DEFAULT_CONTENT = {"system": "Be Brief.", "user": QUESTION, "assistant": ANSWER}
_ROLE_CODES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
_TURNS = (
    "u", "su", "uau", "suau", "ua", "sua", "uaua", "us", "uu", "aua", "s", "ssu", "uaa", "uat",
    "uatau", "a", "au", "uasu", "uauauauauau", "suauauauauaua",
)  # fmt: skip
_ROLES = ("developer", "tool", "function", "ipython", "model", "human", "System", "USER", "bot", "")
_FIELDS = {
    "place": {"type": "string", "description": "Where.", "enum": ["a", "b"], "default": "a"},
    "number": {"type": "integer", "nullable": True},
    "list": {"type": "array", "items": {"type": "string"}, "description": "Some."},
    "more": {"type": "object", "properties": {"deep": {"type": "number"}}, "required": ["deep"]},
}
_PARAMETERS = {"type": "object", "properties": _FIELDS, "required": ["place"]}
_FUNCTION = {"name": "find", "description": "Finds.", "parameters": _PARAMETERS}
_TOOL = {"type": "function", "function": _FUNCTION}
_ARGUMENTS = {"place": "b", "number": 1, "exact": True, "list": ["a"], "more": {"deep": None}}
_CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": _ARGUMENTS}}
_DOCUMENT = {"title": "Herons", "text": "They nest in trees."}
VALUES: Sequence[Any] = (True, False, "x", "", 0, 1, [], ["x"], {}, {"x": "y"}, None)
KNOWN_VALUES: Mapping[str, Sequence[Any]] = {
    "tools": (None, [_TOOL], [], [_TOOL, _TOOL], [_FUNCTION], ["x"]),
    "documents": (None, [_DOCUMENT], []),
    "tool_calls": ([_CALL], [], [_CALL["function"]], [_CALL, _CALL], ["x"]),
}
_CONTENTS = (
    "", " ", "\n", "UPPER", "lower", "a\n\n  b\r\nc\td", "élan \U0001f600 漢字 \u0645\u0631",
    "<b>'\"&", "{} {0} %s 100% {{ x }} {% y %}", "\xa0a\u2028\u200b\x0b\x1c",
    "see http://a.example/b a@b.example", "".join(map(chr, range(33, 127))),
    "</s><|end|><|user|>\n[INST]", "<think>\nx\n</think>\n\ny",
)  # fmt: skip
_PLAIN = ("role", "content")
_TOKENS = ("", "<s>", "<|endoftext|>", "[X]")
MAX_MESSAGES, MAX_LENGTH = 1024, 1 << 18
_MAX_NAMED_WORDS, _MAX_NUMBERS, _MAX_NAMES = 64, 24, 24
_LONGEST_WORD, _LONGEST_ROLE, _EVERY_LENGTH = 4096, 40, 130
MAX_WORDS = 4096  # words or lines of a generated text


@dataclass(frozen=True)
class TemplateInput:
    """The input of a rendering: variables, and the results of the clock and of ``random``."""

    variables: Mapping[str, Any]
    clock_text: str | None = None
    choice: int = 0

    @property
    def has_non_text(self) -> bool:
        """Whether some content is not a string: a template may then fail."""
        return not all(isinstance(m.get(k), str) for m in self.messages for k in _PLAIN)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages; do not modify them."""
        found: list[dict[str, Any]] = self.variables["messages"]
        return found

    def key(self) -> bytes:
        """Return a hash that identifies the input."""
        from hashlib import sha256  # it loads OpenSSL, which most runs of the linter do not need

        return sha256(
            json.dumps([self.variables, self.clock_text, self.choice]).encode("ascii")
        ).digest()

    def with_variables(self, /, **variables: Any) -> "TemplateInput":
        """Return a copy with these variables changed."""
        return replace(self, variables={**self.variables, **variables})

    def with_message(self, number: int, /, **fields: Any) -> "TemplateInput":
        """Return a copy with these fields of one message changed."""
        messages = list(self.messages)
        messages[number] = {**messages[number], **fields}
        return self.with_variables(messages=messages)

    def with_toggled_prompt(self) -> "TemplateInput":
        """Return a copy with add_generation_prompt inverted."""
        is_open = self.variables.get("add_generation_prompt")
        return self.with_variables(add_generation_prompt=not is_open)


@dataclass
class Vocabulary:
    """What templates mention: texts, numbers, variables, and keys of messages."""

    words: dict[str, None] = field(default_factory=dict)
    numbers: dict[int, None] = field(default_factory=dict)
    variables: dict[str, None] = field(default_factory=dict)
    keys: dict[str, None] = field(default_factory=dict)
    uses_clock: bool = False

    def add(self, tree: Any) -> None:
        """Add what a template mentions."""
        from jinja2 import meta, nodes

        for const in tree.find_all(nodes.Const):
            if isinstance(const.value, str) and len(const.value) <= _LONGEST_WORD:
                self.words[const.value] = None
            elif isinstance(const.value, int) and not isinstance(const.value, bool):
                self.numbers[abs(const.value)] = None
        for pair in tree.find_all(nodes.Pair):  # code points, as in the argument of translate()
            number = getattr(pair.key, "value", None)
            if type(number) is int and 32 <= number < 0xD800:
                self.words[chr(number)] = None
        for node in tree.find_all(
            (nodes.Getattr, nodes.Getitem, nodes.Call, nodes.Filter, nodes.Compare)
        ):
            keys = [getattr(node, "attr", None), getattr(getattr(node, "arg", 0), "value", None)]
            keys += [getattr(a, "value", None) for a in getattr(node, "args", None) or ()]
            keys += [getattr(a.value, "value", None) for a in getattr(node, "kwargs", None) or ()]
            if isinstance(node, nodes.Compare) and node.ops[0].op in ("in", "notin"):
                keys.append(getattr(node.expr, "value", None))
            self.keys |= dict.fromkeys(n for n in keys if isinstance(n, str) and n.isidentifier())
        self.uses_clock |= any(n.name == "strftime_now" for n in tree.find_all(nodes.Name))
        self.variables |= dict.fromkeys(sorted(meta.find_undeclared_variables(tree)))

    def free_variables(self) -> list[str]:
        """Return the variables that not every conversation has."""
        standard = ("messages", "add_generation_prompt")
        return [name for name in self.variables if name not in standard][:_MAX_NAMES]

    def message_keys(self) -> list[str]:
        """Return the message keys that not every message has."""
        return [key for key in self.keys if key not in _PLAIN][:_MAX_NAMES]


def ordinary_inputs(tokens: Mapping[str, str]) -> Iterator[TemplateInput]:
    """Yield conversations that any template may get."""
    for turns in _TURNS:
        case = _conversation([_ROLE_CODES[code] for code in turns], tokens)
        yield case.with_toggled_prompt()
        yield case
    basic = _conversation(("system", "user", "assistant", "user"), tokens)
    for number in range(4):
        padded = f"  {basic.messages[number]['content']}\n "
        for content in (padded, *_CONTENTS):
            yield basic.with_message(number, content=content).with_toggled_prompt()
            yield basic.with_message(number, content=content)
    yield basic.with_message(3, content=resized(QUESTION + " ", 20_000)).with_toggled_prompt()
    yield from with_length(basic, 300)
    for role in _ROLES:
        for number in range(4):
            yield basic.with_message(number, role=role).with_toggled_prompt()


def non_text_inputs(tokens: Mapping[str, str]) -> Iterator[TemplateInput]:
    """Yield conversations in which some content is not a string."""
    for roles in (("user",), ("system", "user", "assistant", "user")):
        case = _conversation(roles, tokens)
        yield with_content_parts(case)
        yield with_content_parts(case).with_toggled_prompt()
        for number in range(len(roles)):
            text = case.messages[number]["content"]
            image = {"type": "image", "image": "x"}
            listed: Sequence[Any] = (
                [{"type": "text", "text": text}],
                [image, {"type": "text", "text": text}],
                [],
            )
            for content in (None, *listed):
                yield case.with_message(number, content=content).with_toggled_prompt()
            messages = list(case.messages)
            messages[number] = {"role": messages[number]["role"]}
            yield case.with_variables(messages=messages)


def with_content_parts(case: TemplateInput) -> TemplateInput:
    """Return a conversation in which each text is a list of one part, as vLLM may pass it."""
    messages = [
        {**m, "content": [{"type": "text", "text": m["content"]}]}
        if isinstance(m.get("content"), str)
        else m
        for m in case.messages
    ]
    return case.with_variables(messages=messages)


def with_plain_text(case: TemplateInput) -> Iterator[TemplateInput]:
    """Yield equivalents of a non-text conversation: contents as Python's str(), and joined parts.

    A harmless template may accept a list of parts although the base's template fails on it.
    """

    def joined(content: Any) -> str:
        found = content if isinstance(content, list) else []
        return "".join(p.get("text", "") for p in found) if found else ""

    for write in (str, joined):
        messages = [
            m if isinstance(m.get("content"), str) else {**m, "content": write(m.get("content"))}
            for m in case.messages
        ]
        yield case.with_variables(messages=messages)


def vocabulary_inputs(vocabulary: Vocabulary, tokens: Mapping[str, str]) -> Iterator[TemplateInput]:
    """Yield conversations with every value that a template mentions, in each possible position."""
    basic = _conversation(("system", "user", "assistant", "user"), tokens)
    single = _conversation(("user",), tokens)
    for name in vocabulary.free_variables():
        for case in (single, basic):
            yield from _with_name(case, name)
    if "add_generation_prompt" in vocabulary.variables:
        yield from (_without(case, "add_generation_prompt") for case in (single, basic))
    for key in vocabulary.message_keys():
        for number in range(4):
            for value in KNOWN_VALUES.get(key, VALUES[:-1]):
                yield basic.with_message(number, **{key: value})
    for number in list(vocabulary.numbers)[:_MAX_NUMBERS]:
        for size in (number - 1, number, number + 1):
            yield from with_sizes(basic, size)
            yield from with_sizes(single, size)
    for word in list(vocabulary.words)[:_MAX_NAMED_WORDS]:
        yield from _with_word(basic, single, word)
        if vocabulary.uses_clock:
            yield replace(single, clock_text=word)
    for size in range(_EVERY_LENGTH):
        yield single.with_message(0, content=resized(QUESTION, size))
    for choice in range(1, 8):
        yield replace(single, choice=choice)


def _with_word(basic: TemplateInput, single: TemplateInput, word: str) -> Iterator[TemplateInput]:
    for text in text_variants(word, QUESTION):
        yield single.with_message(0, content=text)
        yield basic.with_message(3, content=text).with_toggled_prompt()
    for number in (0, 1, 2):
        yield basic.with_message(number, content=word)
    if len(word) <= _LONGEST_ROLE:
        yield from (basic.with_message(number, role=word) for number in range(4))


def small_changes(case: TemplateInput, vocabulary: Vocabulary) -> Iterator[TemplateInput]:
    """Yield small changes of a conversation, independent of what a template compared."""
    yield case.with_toggled_prompt()
    for name in vocabulary.free_variables():
        yield from _with_name(case, name)
    for key in vocabulary.message_keys():
        for value in KNOWN_VALUES.get(key, (True, "x", "")):
            yield case.with_message(len(case.messages) - 1, **{key: value})
    for number in (0, -1):
        for role in _DEFAULT_CONTENT:
            yield case.with_message(number, role=role)
        yield case.with_message(number, content="")
    for more in (1, 2):
        yield from with_length(case, len(case.messages) + more)


def text_variants(word: str, text: str) -> Iterable[str]:
    """Return texts that contain a word: alone, at the start, the end, inside, in other cases."""
    half = len(text) // 2
    first, last = text[:half], text[half:]
    cased = (word.upper(), word.lower(), word.title(), word.swapcase(), resized(word, 99))
    spaced = (f"{word} {text}", f"{text} {word}", f"{first} {word} {last}")
    return dict.fromkeys((word, word + text, text + word, first + word + last, *spaced, *cased))


def with_sizes(case: TemplateInput, size: int) -> Iterator[TemplateInput]:
    """Yield conversations with contents, and with numbers of messages, of this size."""
    if 0 <= size <= MAX_LENGTH:
        for number in {0, len(case.messages) - 1}:
            yield case.with_message(number, content=resized(QUESTION, size))
    if 0 <= size <= MAX_WORDS:
        last = len(case.messages) - 1
        yield case.with_message(last, content=" ".join(["word"] * size))
        yield case.with_message(last, content="line\n" * size)
        yield case.with_message(last, content=str(size))
        yield case.with_message(last, content=chr(size))
    if 1 <= size <= MAX_MESSAGES:
        for other in with_length(case, size):
            yield other
            yield other.with_toggled_prompt()


def resized(text: str, size: int) -> str:
    """Repeat or cut a text to this number of characters."""
    return (text * (size // max(len(text), 1) + 1))[:size]


def _conversation(roles: Sequence[str], tokens: Mapping[str, str]) -> TemplateInput:
    messages = [{"role": role, "content": _DEFAULT_CONTENT.get(role, "Found.")} for role in roles]
    if len(messages) > 2:
        messages[-1] = {**messages[-1], "content": NEXT}
    standard = {"add_generation_prompt": False, "tools": None, "documents": None}
    return TemplateInput({**tokens, "messages": messages, **standard})


def _with_name(case: TemplateInput, name: str) -> Iterator[TemplateInput]:
    known = _TOKENS if name.endswith("_token") else VALUES
    for value in KNOWN_VALUES.get(name, known):
        yield case.with_variables(**{name: value})
    yield _without(case, name)


def _without(case: TemplateInput, name: str) -> TemplateInput:
    return replace(case, variables={n: v for n, v in case.variables.items() if n != name})


def with_length(case: TemplateInput, count: int) -> Iterator[TemplateInput]:
    """Yield conversations with this number of messages, extended at the end and at the start."""
    messages = case.messages[:count]
    later = list(messages)
    while len(later) < count:
        later.append(_turn(later[-1].get("role") != "user"))
    yield case.with_variables(messages=later)
    starts_with_user = messages[0].get("role") == "user"
    missing = range(count - len(messages), 0, -1)
    earlier = [_turn((number % 2 == 0) != starts_with_user) for number in missing]
    yield case.with_variables(messages=[*earlier, *case.messages[-count:]])
    yield case.with_variables(messages=[*messages[:-1], *earlier, case.messages[-1]][:count])


def _turn(is_user: bool) -> dict[str, Any]:
    return (
        {"role": "user", "content": NEXT} if is_user else {"role": "assistant", "content": ANSWER}
    )
