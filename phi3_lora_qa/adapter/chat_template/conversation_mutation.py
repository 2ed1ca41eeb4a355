"""Changes of a conversation towards what a chat template compared in it.

What was compared is looked for in the conversation, and replaced by what it was compared with; what
was counted is made as many. Imported by the child that renders templates; see
`template_rendering_child`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from phi3_lora_qa.adapter.chat_template.branch_tracing import Hint
from phi3_lora_qa.adapter.chat_template.conversation_generation import (
    KNOWN_VALUES,
    MAX_LENGTH,
    MAX_MESSAGES,
    MOST_WORDS,
    VALUES,
    Chat,
    longer,
    resized,
    shapes,
    sized,
)

Change = Callable[[str], Iterable[str]]

_MAX_DEPTH = 7
_MESSAGE = 2  # steps to a message


def towards(chat: Chat, hint: Hint, told: str | None) -> Iterator[Chat]:
    """Yield changes of a conversation in which a comparison may come out otherwise."""
    left, right = hint.left, hint.right
    for ours, theirs in ((left, right), (right, left)):
        if hasattr(ours, "_undefined_name") and isinstance(theirs, str | int | float):
            yield from _given(chat, ours._undefined_name, ours._undefined_obj, theirs)
    if hint.kind == "key":
        yield from _found_in(chat, left, list(right), told)
        for value in KNOWN_VALUES.get(left, ("x", True, "")):
            yield from _given(chat, left, right, value)
    elif hint.kind == "kind":
        yield from _other_kinds(chat, left)
    elif hint.kind == "in":
        yield from _found_in(chat, left, right, told)
    elif _is_number(left) and _is_number(right):
        for ours, theirs in ((left, right), (right, left)):
            for target in (theirs, theirs + 1, theirs - 1):
                yield from _counted(chat, int(ours), int(target), told)
    elif isinstance(left, str) and isinstance(right, str):
        for ours, theirs in ((left, right), (right, left)):
            yield from _replaced(chat, told, partial(_instead, ours, theirs))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 40


def _places(value: Any, depth: int = 0) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield what a value holds, with the way to it; of a long list its ends."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = [(n, value[n]) for n in sorted({*range(min(len(value), 4)), len(value) - 1} - {-1})]
    for key, inner in items:
        yield (key,), inner
        if depth < _MAX_DEPTH:
            yield from (((key, *way), found) for way, found in _places(inner, depth + 1))


def _put(value: Any, way: Sequence[Any], new: Any) -> Any:
    """Return a value with another one in a place."""
    if not way:
        return new
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[way[0]] = _put(copy[way[0]], way[1:], new)
    return copy


def _replaced(chat: Chat, told: str | None, change: Change) -> Iterator[Chat]:
    """Yield a conversation with each of its texts changed, where a change yields texts."""
    for way, value in _places(chat.names):
        if isinstance(value, str):
            for text in change(value):
                yield replace(chat, names=_put(chat.names, way, text))
    if told is not None:
        for text in change(told):
            yield replace(chat, words=text)


def _given(chat: Chat, name: Any, owner: Any, value: Any) -> Iterator[Chat]:
    """Yield a conversation with what was looked up and is not there."""
    if not isinstance(owner, Mapping):
        yield chat.named(**{name: value} if isinstance(name, str) else {})
    for way, place in _places(chat.names):
        if isinstance(place, dict) and place == owner:
            yield replace(chat, names=_put(chat.names, way, {**place, name: value}))


def _is_frame(way: Sequence[Any]) -> bool:
    """Whether a place holds what every conversation has: messages, each with its fields."""
    return way[0] == "add_generation_prompt" or (way[0] == "messages" and len(way) <= _MESSAGE)


def _other_kinds(chat: Chat, seen: Any) -> Iterator[Chat]:
    """Yield a conversation in which what was looked at is something of another kind."""
    for way, value in _places(chat.names):
        if type(value) is type(seen) and value == seen and not _is_frame(way):
            for new in VALUES:
                yield replace(chat, names=_put(chat.names, way, new))
        if isinstance(value, dict) and len(way) > 2:
            for key in value:
                without = {k: v for k, v in value.items() if k != key}
                yield replace(chat, names=_put(chat.names, way, without))


def _instead(old: str, new: str, text: str) -> Iterable[str]:
    """Return texts in which another one stands where the old one was seen, in whatever letters."""
    cased = (new, new.upper(), new.lower(), new.title(), new[::-1], f" {new} ")
    if old and old in text:
        first = (text.replace(old, word, 1) for word in cased)
        return dict.fromkeys((*first, *(text.replace(old, word) for word in cased)))
    same = old.strip().lower()
    seen = same and (same in text.lower() or text.lower() in same or same[::-1] in text.lower())
    return cased if seen else ()


def _found_in(chat: Chat, needle: Any, place: Any, told: str | None) -> Iterator[Chat]:
    if isinstance(place, str) and isinstance(needle, str):
        related = place.strip().lower()

        def change(text: str) -> Iterable[str]:
            if (related and (related in text.lower() or text.lower() in related)) or not related:
                yield from shapes(needle, text)
                if needle and needle in text:
                    yield text.replace(needle, "")
            if needle and text and needle.lower() in text.lower():
                yield from (place, place[:1], place[-1:])

        yield from _replaced(chat, told, change)
        return
    found = list(place)[:16] if isinstance(place, list | tuple | dict | set) else []
    for item in found:
        if isinstance(item, str) and isinstance(needle, str):
            yield from _replaced(chat, told, partial(_instead, needle, item))
        elif _is_number(item) and _is_number(needle):
            yield from _counted(chat, int(needle), int(item), told)


def _counted(chat: Chat, old: int, new: int, told: str | None) -> Iterator[Chat]:
    """Yield a conversation in which what is counted, and came to one number, comes to another."""

    def change(text: str) -> Iterable[str]:
        if len(text) == old and 0 <= new <= MAX_LENGTH:
            yield resized(text or "x", new)
        if 0 <= new <= MOST_WORDS:
            if len(text.split()) == old:
                yield " ".join(["word"] * new)
            if text.count("\n") == old or len(text.splitlines()) == old:
                yield from ("line\n" * new, "line\n" * (new - 1) + "line")
        if text.strip().lstrip("-").isdigit() or old == 0:
            yield str(new)

    yield from _replaced(chat, told, change)
    for way, value in _places(chat.names):
        if _is_number(value):
            yield replace(chat, names=_put(chat.names, way, new))
    for count in (new, new + 1, new + 2):
        if 1 <= count <= MAX_MESSAGES:
            yield from longer(chat, count)
    yield from sized(chat, new)
