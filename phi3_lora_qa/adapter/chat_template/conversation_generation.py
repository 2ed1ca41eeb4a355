"""Conversations that are drawn to take the branches of chat templates.

First what users of any template may give (`ordinary`, `odd`), then every value that a template
names, put where it may make a difference (`sweep`), then small changes of one conversation
(`nearby`; see also `conversation_mutation`). Nothing is random. Imported by the child that renders
templates; see `template_rendering_child`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

QUESTION, ANSWER, NEXT = "Where do 17 Grey herons nest?", "In Tall trees.", "And how High?"
_SAID = {"system": "Be Brief.", "user": QUESTION, "assistant": ANSWER}
_LETTERS = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
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
_MAX_WORDS, _MAX_NUMBERS, _MAX_NAMES = 64, 24, 24
_LONGEST_WORD, _LONGEST_ROLE, _EVERY_LENGTH = 4096, 40, 130
MOST_WORDS = 4096  # of a text that is made of as many words or lines


@dataclass(frozen=True)
class Chat:
    """What a template is given: names and their values, and what the clock and chance say."""

    names: Mapping[str, Any]
    words: str | None = None
    pick: int = 0

    @property
    def is_odd(self) -> bool:
        """Whether contents are not plain text: a template may then fail."""
        return not all(isinstance(m.get(k), str) for m in self.messages for k in _PLAIN)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages, to be left as they are."""
        found: list[dict[str, Any]] = self.names["messages"]
        return found

    def key(self) -> bytes:
        """Return what tells it from other conversations, and is short."""
        return sha256(json.dumps([self.names, self.words, self.pick]).encode("ascii")).digest()

    def named(self, **names: Any) -> "Chat":
        """Return it with other values of names."""
        return replace(self, names={**self.names, **names})

    def message(self, number: int, **fields: Any) -> "Chat":
        """Return it with other fields of one message."""
        messages = list(self.messages)
        messages[number] = {**messages[number], **fields}
        return self.named(messages=messages)

    def opened(self) -> "Chat":
        """Return it with the other value of add_generation_prompt."""
        opened = self.names.get("add_generation_prompt")
        return self.named(add_generation_prompt=not opened)


@dataclass
class Vocabulary:
    """What templates name: texts, numbers, variables, and keys of messages."""

    words: dict[str, None] = field(default_factory=dict)
    numbers: dict[int, None] = field(default_factory=dict)
    variables: dict[str, None] = field(default_factory=dict)
    keys: dict[str, None] = field(default_factory=dict)
    clock: bool = False

    def add(self, tree: Any) -> None:
        """Add what a template names."""
        from jinja2 import meta, nodes

        for const in tree.find_all(nodes.Const):
            if isinstance(const.value, str) and len(const.value) <= _LONGEST_WORD:
                self.words[const.value] = None
            elif isinstance(const.value, int) and not isinstance(const.value, bool):
                self.numbers[abs(const.value)] = None
        for pair in tree.find_all(nodes.Pair):  # as translate() has them: numbers of letters
            number = getattr(pair.key, "value", None)
            if type(number) is int and 32 <= number < 0xD800:
                self.words[chr(number)] = None
        for node in tree.find_all(
            (nodes.Getattr, nodes.Getitem, nodes.Call, nodes.Filter, nodes.Compare)
        ):
            named = [getattr(node, "attr", None), getattr(getattr(node, "arg", 0), "value", None)]
            named += [getattr(a, "value", None) for a in getattr(node, "args", None) or ()]
            named += [getattr(a.value, "value", None) for a in getattr(node, "kwargs", None) or ()]
            if isinstance(node, nodes.Compare) and node.ops[0].op in ("in", "notin"):
                named.append(getattr(node.expr, "value", None))
            self.keys |= dict.fromkeys(n for n in named if isinstance(n, str) and n.isidentifier())
        self.clock |= any(n.name == "strftime_now" for n in tree.find_all(nodes.Name))
        self.variables |= dict.fromkeys(sorted(meta.find_undeclared_variables(tree)))

    def named(self) -> list[str]:
        """Return the variables that are not given in every conversation."""
        given = ("messages", "add_generation_prompt")
        return [name for name in self.variables if name not in given][:_MAX_NAMES]

    def asked(self) -> list[str]:
        """Return the keys that not every message has."""
        return [key for key in self.keys if key not in _PLAIN][:_MAX_NAMES]


def ordinary(tokens: Mapping[str, str]) -> Iterator[Chat]:
    """Yield conversations that any template may be given."""
    for turns in _TURNS:
        chat = _chat([_LETTERS[letter] for letter in turns], tokens)
        yield chat.opened()
        yield chat
    basic = _chat(("system", "user", "assistant", "user"), tokens)
    for number in range(4):
        padded = f"  {basic.messages[number]['content']}\n "
        for content in (padded, *_CONTENTS):
            yield basic.message(number, content=content).opened()
            yield basic.message(number, content=content)
    yield basic.message(3, content=resized(QUESTION + " ", 20_000)).opened()
    yield from longer(basic, 300)
    for role in _ROLES:
        for number in range(4):
            yield basic.message(number, role=role).opened()


def odd(tokens: Mapping[str, str]) -> Iterator[Chat]:
    """Yield conversations of which a content is no text."""
    for roles in (("user",), ("system", "user", "assistant", "user")):
        chat = _chat(roles, tokens)
        yield parts(chat)
        yield parts(chat).opened()
        for number in range(len(roles)):
            text = chat.messages[number]["content"]
            image = {"type": "image", "image": "x"}
            listed: Sequence[Any] = (
                [{"type": "text", "text": text}],
                [image, {"type": "text", "text": text}],
                [],
            )
            for content in (None, *listed):
                yield chat.message(number, content=content).opened()
            messages = list(chat.messages)
            messages[number] = {"role": messages[number]["role"]}
            yield chat.named(messages=messages)


def parts(chat: Chat) -> Chat:
    """Return a conversation in which each text is a list with a part, as vLLM may give it."""
    messages = [
        {**m, "content": [{"type": "text", "text": m["content"]}]}
        if isinstance(m.get("content"), str)
        else m
        for m in chat.messages
    ]
    return chat.named(messages=messages)


def plainly(chat: Chat) -> Iterator[Chat]:
    """Yield what an odd conversation may be taken for: contents as Python writes them, or joined.

    A harmless template may take a list of parts where the base's fails.
    """

    def joined(content: Any) -> str:
        found = content if isinstance(content, list) else []
        return "".join(p.get("text", "") for p in found) if found else ""

    for write in (str, joined):
        messages = [
            m if isinstance(m.get("content"), str) else {**m, "content": write(m.get("content"))}
            for m in chat.messages
        ]
        yield chat.named(messages=messages)


def sweep(vocabulary: Vocabulary, tokens: Mapping[str, str]) -> Iterator[Chat]:
    """Yield conversations with every value that is named, where it may make a difference."""
    basic = _chat(("system", "user", "assistant", "user"), tokens)
    single = _chat(("user",), tokens)
    for name in vocabulary.named():
        for chat in (single, basic):
            yield from _with_name(chat, name)
    if "add_generation_prompt" in vocabulary.variables:
        yield from (_without(chat, "add_generation_prompt") for chat in (single, basic))
    for key in vocabulary.asked():
        for number in range(4):
            for value in KNOWN_VALUES.get(key, VALUES[:-1]):
                yield basic.message(number, **{key: value})
    for number in list(vocabulary.numbers)[:_MAX_NUMBERS]:
        for size in (number - 1, number, number + 1):
            yield from sized(basic, size)
            yield from sized(single, size)
    for word in list(vocabulary.words)[:_MAX_WORDS]:
        yield from _with_word(basic, single, word)
        if vocabulary.clock:
            yield replace(single, words=word)
    for size in range(_EVERY_LENGTH):
        yield single.message(0, content=resized(QUESTION, size))
    for pick in range(1, 8):
        yield replace(single, pick=pick)


def _with_word(basic: Chat, single: Chat, word: str) -> Iterator[Chat]:
    for text in shapes(word, QUESTION):
        yield single.message(0, content=text)
        yield basic.message(3, content=text).opened()
    for number in (0, 1, 2):
        yield basic.message(number, content=word)
    if len(word) <= _LONGEST_ROLE:
        yield from (basic.message(number, role=word) for number in range(4))


def nearby(chat: Chat, vocabulary: Vocabulary) -> Iterator[Chat]:
    """Yield small changes of a conversation, whatever a template compared in it."""
    yield chat.opened()
    for name in vocabulary.named():
        yield from _with_name(chat, name)
    for key in vocabulary.asked():
        for value in KNOWN_VALUES.get(key, (True, "x", "")):
            yield chat.message(len(chat.messages) - 1, **{key: value})
    for number in (0, -1):
        for role in _SAID:
            yield chat.message(number, role=role)
        yield chat.message(number, content="")
    for more in (1, 2):
        yield from longer(chat, len(chat.messages) + more)


def shapes(word: str, text: str) -> Iterable[str]:
    """Return texts in which a word stands alone, before, behind, within, and in other letters."""
    half = len(text) // 2
    first, last = text[:half], text[half:]
    cased = (word.upper(), word.lower(), word.title(), word.swapcase(), resized(word, 99))
    spaced = (f"{word} {text}", f"{text} {word}", f"{first} {word} {last}")
    return dict.fromkeys((word, word + text, text + word, first + word + last, *spaced, *cased))


def sized(chat: Chat, size: int) -> Iterator[Chat]:
    """Yield a conversation with contents, and with messages, of a size."""
    if 0 <= size <= MAX_LENGTH:
        for number in {0, len(chat.messages) - 1}:
            yield chat.message(number, content=resized(QUESTION, size))
    if 0 <= size <= MOST_WORDS:
        last = len(chat.messages) - 1
        yield chat.message(last, content=" ".join(["word"] * size))
        yield chat.message(last, content="line\n" * size)
        yield chat.message(last, content=str(size))
        yield chat.message(last, content=chr(size))
    if 1 <= size <= MAX_MESSAGES:
        for other in longer(chat, size):
            yield other
            yield other.opened()


def resized(text: str, size: int) -> str:
    """Return the beginning of a text that is repeated."""
    return (text * (size // max(len(text), 1) + 1))[:size]


def _chat(roles: Sequence[str], tokens: Mapping[str, str]) -> Chat:
    messages = [{"role": role, "content": _SAID.get(role, "Found.")} for role in roles]
    if len(messages) > 2:
        messages[-1] = {**messages[-1], "content": NEXT}
    given = {"messages": messages, "add_generation_prompt": False, "tools": None, "documents": None}
    return Chat({**tokens, **given})


def _with_name(chat: Chat, name: str) -> Iterator[Chat]:
    known = _TOKENS if name.endswith("_token") else VALUES
    for value in KNOWN_VALUES.get(name, known):
        yield chat.named(**{name: value})
    yield _without(chat, name)


def _without(chat: Chat, name: str) -> Chat:
    return replace(chat, names={n: v for n, v in chat.names.items() if n != name})


def longer(chat: Chat, count: int) -> Iterator[Chat]:
    """Yield a conversation with as many messages, which goes on in turns, or began earlier."""
    messages = chat.messages[:count]
    later = list(messages)
    while len(later) < count:
        later.append(_turn(later[-1].get("role") != "user"))
    yield chat.named(messages=later)
    asked = messages[0].get("role") == "user"
    earlier = [_turn((number % 2 == 0) != asked) for number in range(count - len(messages), 0, -1)]
    yield chat.named(messages=[*earlier, *chat.messages[-count:]])
    yield chat.named(messages=[*messages[:-1], *earlier, chat.messages[-1]][:count])


def _turn(asks: bool) -> dict[str, Any]:
    return {"role": "user", "content": NEXT} if asks else {"role": "assistant", "content": ANSWER}
