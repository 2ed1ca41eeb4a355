"""Finds what a chat template has of its own: triggers, and texts that it could output.

A trigger is a text or a number that a condition compares with what a message says. The search for
differing conversations shows what a trigger does; this module says what it is. The child that
renders templates imports this module; see `template_rendering_child`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MAX_ROUNDS = 8  # assignments that pass a message's text on, one after another
_FEWEST_LETTERS = 3
_STRUCTURE = ("role", "content", "messages", "user", "assistant", "system", "tool")
_TAKES_TEXT = ("replace", "get", "join", "format", "cycle", "dict", "namespace")
"""Calls whose arguments may become output."""

_NAMES_FIELDS = (
    "map", "selectattr", "rejectattr", "select", "reject", "groupby", "sort", "unique", "attr",
    "trim",
)  # fmt: skip
"""Filters whose arguments are not output."""

_PLACE = re.compile(r"%[-+#0-9.*]*[a-z]|\{[^{}]*\}")
"""A place in a format, which something else takes."""

_EVERYTHING = ("tojson", "string", "join", "map", "selectattr", "rejectattr", "groupby")
"""Filters through which the contents of a list of messages are seen."""


@dataclass(frozen=True)
class Trigger:
    """A value that a condition compares with what a message says.

    Attributes:
        line: The line of the condition in the template.
        value: The text, or the number as text.
    """

    line: int
    value: str


def triggers(tree: Any) -> tuple[Trigger, ...]:
    """Return what the conditions of a template compare with the contents of messages.

    Args:
        tree: The syntax tree of the template.
    """
    from jinja2 import nodes

    names = _names_of_content(tree)
    constants = _named_constants(tree)
    found: dict[Trigger, None] = {}
    for condition in _conditions(tree):
        if not _says_content(condition, names):
            continue
        used = {n.name for n in _below(condition, nodes.Name)}
        values = {*_constants(condition), *(v for n in used for v in constants.get(n, ()))}
        for value in sorted(map(str, values)):
            found[Trigger(condition.lineno, value)] = None
    return tuple(found)


def own_texts(tree: Any, other: Any) -> frozenset[str]:
    """Return the texts that a template can output and another one cannot, without outer blanks.

    Args:
        tree: The syntax tree of the template.
        other: The syntax tree of the other template.
    """
    known = "\0".join(text for text, _ in _texts(other)).casefold()
    pieces = [p.strip() for t, is_output in _texts(tree) if is_output for p in _PLACE.split(t)]
    return frozenset(
        piece
        for piece in pieces
        if sum(map(str.isalpha, piece)) >= _FEWEST_LETTERS and piece.casefold() not in known
    )


def _conditions(tree: Any) -> Iterator[Any]:
    from jinja2 import nodes

    for node in tree.find_all((nodes.If, nodes.CondExpr, nodes.For)):
        if node.test is not None:
            yield node.test
    yield from tree.find_all((nodes.Compare, nodes.Test, nodes.And, nodes.Or, nodes.Not))


def _below(node: Any, kinds: Any) -> Iterator[Any]:
    if isinstance(node, kinds):
        yield node
    yield from node.find_all(kinds)


def _names_of_content(tree: Any) -> set[str]:
    """Return the names that may have the text of a message, or a value computed from it."""
    from jinja2 import nodes

    names: set[str] = set()
    for _ in range(_MAX_ROUNDS):
        before = len(names)
        for node in tree.find_all((nodes.Assign, nodes.For, nodes.AssignBlock)):
            source = node.iter if isinstance(node, nodes.For) else node
            if isinstance(node, nodes.Assign):
                source = node.node
            if _says_content(source, names):
                names |= {n.name for n in _below(node.target, (nodes.Name, nodes.NSRef))}
        for macro in tree.find_all(nodes.Macro):
            calls = [c for c in tree.find_all(nodes.Call) if _called(c) == macro.name]
            if any(_says_content(a, names) for c in calls for a in (*c.args, *c.kwargs)):
                names |= {argument.name for argument in macro.args}
            if _says_content(macro, names):
                names.add(macro.name)
        if len(names) == before:
            break
    return names


def _says_content(node: Any, names: set[str]) -> bool:
    """Whether an expression refers to the text of a message."""
    from jinja2 import nodes

    for item in _below(node, (nodes.Getattr, nodes.Getitem, nodes.Call, nodes.Name, nodes.Filter)):
        if isinstance(item, nodes.Name | nodes.Getattr) and _identifier(item) in names:
            return True
        if isinstance(item, nodes.Filter) and item.name in _EVERYTHING and _is_about(item):
            return True
        key = getattr(item, "attr", None) or getattr(getattr(item, "arg", None), "value", None)
        if isinstance(item, nodes.Call):
            key = next((a.value for a in item.args if isinstance(a, nodes.Const)), None)
            key = key if _called(item) in ("get", "pop") else None
        if key == "content":
            return True
    return False


def _is_about(item: Any) -> bool:
    """Whether a filter sees all messages with their contents."""
    from jinja2 import nodes

    words = [a.value for a in (*item.args, *(k.value for k in item.kwargs)) if _is_text(a)]
    named = item.name not in ("map", "selectattr", "rejectattr", "groupby") or "content" in words
    return named and any(name.name == "messages" for name in _below(item, nodes.Name))


def _is_text(node: Any) -> bool:
    return isinstance(getattr(node, "value", None), str)


def _identifier(node: Any) -> str:
    return str(getattr(node, "name", None) or getattr(node, "attr", ""))


def _called(call: Any) -> str:
    return _identifier(call.node)


def _constants(condition: Any) -> set[Any]:
    """Return the texts and numbers that a condition compares, apart from keys and roles."""
    from jinja2 import nodes

    keys = {id(n.arg) for n in _below(condition, nodes.Getitem)}
    keys |= {id(n) for s in _below(condition, nodes.Slice) for n in s.find_all(nodes.Const)}
    about_role = [c for c in _below(condition, nodes.Compare) if not _has_key(c, "content")]
    keys |= {id(n) for c in about_role if _has_key(c, "role") for n in c.find_all(nodes.Const)}
    return {
        const.value
        for const in _below(condition, nodes.Const)
        if id(const) not in keys
        and isinstance(const.value, str | int)
        and not isinstance(const.value, bool)
        and const.value not in ("", 0, 1, *_STRUCTURE)
    }


def _has_key(node: Any, key: str) -> bool:
    from jinja2 import nodes

    found = (
        getattr(n, "attr", None) or getattr(getattr(n, "arg", None), "value", None)
        for n in _below(node, (nodes.Getattr, nodes.Getitem))
    )
    return key in found


def _named_constants(tree: Any) -> dict[str, set[Any]]:
    """Return the constants of each name that is set without the text of a message."""
    from jinja2 import nodes

    found: dict[str, set[Any]] = {}
    for node in tree.find_all((nodes.Assign, nodes.For)):
        source = node.iter if isinstance(node, nodes.For) else node.node
        if not _has_key(source, "content"):
            for name in _below(node.target, nodes.Name):
                found.setdefault(name.name, set()).update(_constants(source))
    return found


def _texts(tree: Any) -> Iterator[tuple[str, bool]]:
    """Yield every text of a template, and whether it may be output."""
    from jinja2 import nodes

    hidden: set[int] = set()
    passed_on = {*_TAKES_TEXT, *(macro.name for macro in tree.find_all(nodes.Macro))}
    kinds = (nodes.Compare, nodes.Test, nodes.Getitem, nodes.Call, nodes.Filter, nodes.Pair)
    for node in tree.find_all(kinds):
        for part in _parts_not_output(node, passed_on):
            hidden |= {id(const) for const in _below(part, nodes.Const)}
    for node in tree.find_all((nodes.Const, nodes.TemplateData)):
        if isinstance(node, nodes.TemplateData):
            yield node.data, True
        elif isinstance(node.value, str):
            yield node.value, id(node) not in hidden


def _parts_not_output(node: Any, passed_on: set[str]) -> list[Any]:
    """Return the parts of an expression whose texts are only compared or looked up."""
    from jinja2 import nodes

    parts: list[Any] = [node]
    match node:
        case nodes.Getitem():
            parts = [node.arg]
        case nodes.Pair():
            parts = [node.key]
        case nodes.Filter() if node.name in _NAMES_FIELDS:
            parts = [*node.args, *node.kwargs]
        case nodes.Filter():
            parts = node.args[:1] if node.name == "replace" else []
        case nodes.Call() if _called(node) in passed_on:
            parts = node.args[:1] if _called(node) in ("replace", "get") else []
        case nodes.Call():
            parts = [*node.args, *node.kwargs]
    return parts
