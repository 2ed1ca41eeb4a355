"""Changes a conversation so that a comparison in a chat template may have a different outcome.

The compared value is searched for in the conversation and replaced by what it was compared with; a
count is changed to the number that it was compared with. The child that renders templates imports
this module; see `template_rendering_child`.
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
    MAX_WORDS,
    VALUES,
    TemplateInput,
    resized,
    text_variants,
    with_length,
    with_sizes,
)

TextChange = Callable[[str], Iterable[str]]

_MAX_DEPTH = 7
_MESSAGE_DEPTH = 2  # the length of the path to a message


def mutations(case: TemplateInput, hint: Hint, clock_text: str | None) -> Iterator[TemplateInput]:
    """Yield changes of a conversation that may flip a comparison.

    Args:
        case: The conversation.
        hint: The comparison.
        clock_text: The text of the clock in the last rendering, or None.
    """
    left, right = hint.left, hint.right
    for ours, theirs in ((left, right), (right, left)):
        if hasattr(ours, "_undefined_name") and isinstance(theirs, str | int | float):
            yield from _with_entry(case, ours._undefined_name, ours._undefined_obj, theirs)
    if hint.kind == "key":
        yield from _with_membership(case, left, list(right), clock_text)
        for value in KNOWN_VALUES.get(left, ("x", True, "")):
            yield from _with_entry(case, left, right, value)
    elif hint.kind == "kind":
        yield from _with_other_type(case, left)
    elif hint.kind == "in":
        yield from _with_membership(case, left, right, clock_text)
    elif _is_number(left) and _is_number(right):
        for ours, theirs in ((left, right), (right, left)):
            for target in (theirs, theirs + 1, theirs - 1):
                yield from _with_count(case, int(ours), int(target), clock_text)
    elif isinstance(left, str) and isinstance(right, str):
        for ours, theirs in ((left, right), (right, left)):
            yield from _with_text_change(case, clock_text, partial(_substituted, ours, theirs))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 40


def _walk(value: Any, depth: int = 0) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield (path, value) of everything in a value; of a long list only the ends."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = [(n, value[n]) for n in sorted({*range(min(len(value), 4)), len(value) - 1} - {-1})]
    for key, inner in items:
        yield (key,), inner
        if depth < _MAX_DEPTH:
            yield from (((key, *path), found) for path, found in _walk(inner, depth + 1))


def _replaced_at(value: Any, path: Sequence[Any], new: Any) -> Any:
    """Return a copy of a value with the item at a path replaced."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[path[0]] = _replaced_at(copy[path[0]], path[1:], new)
    return copy


def _with_value(case: TemplateInput, path: Sequence[Any], new: Any) -> TemplateInput:
    """Return a conversation with one value of its variables replaced."""
    return replace(case, variables=_replaced_at(case.variables, path, new))


def _with_text_change(
    case: TemplateInput, clock_text: str | None, change: TextChange
) -> Iterator[TemplateInput]:
    """Yield a conversation for every change of one of its texts."""
    for path, value in _walk(case.variables):
        if isinstance(value, str):
            for text in change(value):
                yield _with_value(case, path, text)
    if clock_text is not None:
        for text in change(clock_text):
            yield replace(case, clock_text=text)


def _with_entry(case: TemplateInput, name: Any, owner: Any, value: Any) -> Iterator[TemplateInput]:
    """Yield conversations with an entry that was looked up and is missing."""
    if not isinstance(owner, Mapping):
        yield case.with_variables(**{name: value} if isinstance(name, str) else {})
    for path, table in _walk(case.variables):
        if isinstance(table, dict) and table == owner:
            yield _with_value(case, path, {**table, name: value})


def _is_standard(path: Sequence[Any]) -> bool:
    """Whether every conversation has a value here: messages, and the fields of each."""
    return path[0] == "add_generation_prompt" or (
        path[0] == "messages" and len(path) <= _MESSAGE_DEPTH
    )


def _with_other_type(case: TemplateInput, seen: Any) -> Iterator[TemplateInput]:
    """Yield conversations in which the tested value has a different type."""
    for path, value in _walk(case.variables):
        if type(value) is type(seen) and value == seen and not _is_standard(path):
            for new in VALUES:
                yield _with_value(case, path, new)
        if isinstance(value, dict) and len(path) > _MESSAGE_DEPTH:
            for key in value:
                without = {k: v for k, v in value.items() if k != key}
                yield _with_value(case, path, without)


def _substituted(old: str, new: str, text: str) -> Iterable[str]:
    """Return texts with ``new`` in place of ``old``, in several cases."""
    cased = (new, new.upper(), new.lower(), new.title(), new[::-1], f" {new} ")
    if old and old in text:
        first = (text.replace(old, word, 1) for word in cased)
        return dict.fromkeys((*first, *(text.replace(old, word) for word in cased)))
    same = old.strip().lower()
    seen = same and (same in text.lower() or text.lower() in same or same[::-1] in text.lower())
    return cased if seen else ()


def _with_membership(
    case: TemplateInput, needle: Any, container: Any, clock_text: str | None
) -> Iterator[TemplateInput]:
    """Yield conversations in which a value is, or is not, in a container."""
    if isinstance(container, str) and isinstance(needle, str):
        related = container.strip().lower()

        def change(text: str) -> Iterable[str]:
            if (related and (related in text.lower() or text.lower() in related)) or not related:
                yield from text_variants(needle, text)
                if needle and needle in text:
                    yield text.replace(needle, "")
            if needle and text and needle.lower() in text.lower():
                yield from (container, container[:1], container[-1:])

        yield from _with_text_change(case, clock_text, change)
        return
    items = list(container)[:16] if isinstance(container, list | tuple | dict | set) else []
    for item in items:
        if isinstance(item, str) and isinstance(needle, str):
            yield from _with_text_change(case, clock_text, partial(_substituted, needle, item))
        elif _is_number(item) and _is_number(needle):
            yield from _with_count(case, int(needle), int(item), clock_text)


def _with_count(
    case: TemplateInput, old: int, new: int, clock_text: str | None
) -> Iterator[TemplateInput]:
    """Yield conversations in which something that was counted as ``old`` is counted as ``new``."""

    def change(text: str) -> Iterable[str]:
        if len(text) == old and 0 <= new <= MAX_LENGTH:
            yield resized(text or "x", new)
        if 0 <= new <= MAX_WORDS:
            if len(text.split()) == old:
                yield " ".join(["word"] * new)
            if text.count("\n") == old or len(text.splitlines()) == old:
                yield from ("line\n" * new, "line\n" * (new - 1) + "line")
        if text.strip().lstrip("-").isdigit() or old == 0:
            yield str(new)

    yield from _with_text_change(case, clock_text, change)
    for path, value in _walk(case.variables):
        if _is_number(value):
            yield _with_value(case, path, new)
    for count in (new, new + 1, new + 2):
        if 1 <= count <= MAX_MESSAGES:
            yield from with_length(case, count)
    yield from with_sizes(case, new)
