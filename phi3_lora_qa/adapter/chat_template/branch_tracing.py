# ruff: noqa: N802 - jinja2 finds the methods of a visitor by the names of its nodes
"""A chat template that is watched at work: which way each of its conditions went, and why.

Its tree is rewritten: each condition, comparison, loop and look-up goes through a filter that takes
down what it sees and changes nothing. What was compared with what tells which conversation would
turn a condition the other way. Imported by the child that renders templates; see
`template_rendering_child`.
"""

import functools
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import TemplateError
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from phi3_lora_qa.adapter.chat_template.template_normal_form import form_of
from phi3_lora_qa.adapter.chat_template.template_sandbox import Clock, make_environment, render

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_POINTS = 2000
"""Conditions of a template; more are an error."""

_MAX_HINTS = 24  # of one rendering
_MAX_TABLE = 64
_MAX_CALLS = 64  # of which it is remembered whether they found their text

_FILTERS = ("truth", "compare", "item", "get", "loop")
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gteq": operator.ge,
    "lt": operator.lt, "lteq": operator.le,
    "in": lambda left, right: left in right, "notin": lambda left, right: left not in right,
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A place where a template goes one way or the other.

    Attributes:
        line: Its line in the template.
        form: Equal for points that ask the same.
        matters: The outcomes that make a template do what it does not do otherwise.
    """

    line: int
    form: str
    matters: tuple[bool, ...] = (True, False)


@dataclass(frozen=True)
class Hint:
    """Two values that were compared: how, and with which outcome."""

    kind: str
    left: Any
    right: Any


@dataclass
class Watch:
    """What is known of a template's conditions.

    Attributes:
        points: Its conditions.
        taken: The outcomes of each condition so far; of calls that look for a text, by their words.
        fresh: Whether the last rendering brought an outcome that was not known, or compared
            something of another kind.
        hints: What the last rendering compared where an outcome is missing.
    """

    points: list[Point] = field(default_factory=list)
    taken: dict[Any, set[bool]] = field(default_factory=dict)
    fresh: bool = False
    hints: list[Hint] = field(default_factory=list)
    _tables: dict[int, tuple[list[Any], set[str]]] = field(default_factory=dict)
    _kinds: set[tuple[Any, ...]] = field(default_factory=set)

    def saw(self, key: Any, outcome: bool, hint: Hint | None = None) -> None:
        """Write down an outcome, and what led to it while the other one is missing."""
        known = self.taken.setdefault(key, set())
        kinds = (key, type(hint.left), type(hint.right)) if hint else (key,)
        if outcome not in known or kinds not in self._kinds:
            known.add(outcome)
            self._kinds.add(kinds)
            self.fresh = True
        if hint and len(known) < 2 and len(self.hints) < _MAX_HINTS and hint not in self.hints:
            self.hints.append(hint)

    def looked_for(self, name: str, text: Any, words: tuple[Any, ...]) -> None:
        """Write down that a method or filter was given words to find in a text."""
        for word in words:
            key = (name, word)
            known = key in self.taken or len(self.taken) < len(self.points) + _MAX_CALLS
            if known and isinstance(text, str) and isinstance(word, str) and word:
                self.saw(key, word in text, Hint("in", word, text))

    def looked_up(self, point: int, table: Any, key: Any) -> None:
        """Write down whether a key was none of a table's, and whether by now all have been read.

        What changes from one time to another is no table of the template's own.
        """
        if not isinstance(table, dict | list | tuple | str):
            self.taken[point] = {True, False}
            return
        keys: list[Any] = list(table) if isinstance(table, dict) else list(range(len(table)))
        first, read = self._tables.setdefault(point, (list(table), set()))
        counted = not isinstance(table, dict) and isinstance(key, int) and key < 0
        read.add(repr(key + len(keys) if counted else key))
        rest = [k for k in keys if repr(k) not in read]
        hint = Hint("in", key, rest[:8])
        if key not in keys or not isinstance(table, dict):
            self.saw(point, False, Hint("key", key, table) if isinstance(table, dict) else hint)
        if not rest or len(keys) > _MAX_TABLE or list(table) != first:
            self.saw(point, True)
        elif len(self.hints) < _MAX_HINTS:
            self.hints.append(hint)

    def missing(self) -> list[Point]:
        """Return the conditions of which an outcome that matters has not been seen."""
        found = enumerate(self.points)
        return [p for n, p in found if not set(p.matters) <= self.taken.get(n, set())]

    def is_done(self) -> bool:
        """Whether every condition went both ways, as far as it matters."""
        return not self.missing() and all(len(known) > 1 for known in self.taken.values())


class Watched:
    """A chat template that can be rendered as it is, and watched."""

    def __init__(self, text: str, clock: Clock) -> None:
        self.watch = Watch()
        self.clock = clock
        environment = make_environment(clock)
        self.tree = environment.parse(text)
        self.plain = environment.from_string(text)
        self.form = repr(form_of(self.tree))
        self._watched = _watched(text, make_environment(clock), self.watch)

    def text(self, names: Mapping[str, Any], *, plain: bool = False) -> str | None:
        """Return what it writes, or None where it refuses or fails.

        Raises:
            MemoryError, RecursionError, TooLongError: It needs too much.
        """
        self.watch.fresh, self.watch.hints = False, []
        try:
            done = render(self.plain if plain else self._watched, names)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
            return None
        return done if isinstance(done, str) else None


class _Filters:
    """The filters that conditions go through; each returns what jinja2 would have worked out.

    They take the context, which keeps jinja2 from working them out beforehand.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    @pass_context
    def truth(self, context: Context, value: Any, point: int) -> Any:
        self.watch.saw(point, bool(value), Hint("kind", value, None))
        return value

    @pass_context
    def compare(self, context: Context, left: Any, point: int, kind: str, right: Any) -> Any:
        result = _OPERATORS[kind](left, right)
        self.watch.saw(point, bool(result), Hint(kind.removeprefix("not"), left, right))
        return result

    @pass_context
    def item(self, context: Context, value: Any, point: int, key: Any) -> Any:
        self.watch.looked_up(point, value, key)
        return context.environment.getitem(value, key)

    @pass_context
    def get(self, context: Context, value: Any, point: int, *arguments: Any) -> Any:
        self.watch.looked_up(point, value, arguments[0])
        environment: Any = context.environment
        return environment.call(context, environment.getattr(value, "get"), *arguments)

    @pass_context
    def loop(self, context: Context, value: Any, point: int) -> Any:
        items = value if hasattr(value, "__len__") else list(value)
        self.watch.saw(point, len(items) > 0)
        return items


def _watched(text: str, environment: "ImmutableSandboxedEnvironment", watch: Watch) -> Template:
    """Return a template that writes what it does into a watch."""
    _listen(environment, watch)
    filters = _Filters(watch)
    # Names that no template can know, and so not use.
    names = {name: f"{name} {os.urandom(8).hex()}" for name in _FILTERS}
    environment.filters |= {hidden: getattr(filters, name) for name, hidden in names.items()}
    tree = _Rewriter(watch, names).visit(environment.parse(text))
    tree.set_environment(environment)
    # As Environment.from_string does with a text.
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.make_globals(None), None)


class _Rewriter(NodeTransformer):
    """Puts a filter around each condition, comparison, loop and look-up of a tree."""

    def __init__(self, watch: Watch, names: Mapping[str, str]) -> None:
        self.watch, self.names = watch, names

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        first = self._point(node)
        self.generic_visit(node)
        if len(node.ops) > 1:
            return self._call("truth", node, first)
        operand = node.ops[0]
        return self._call("compare", node.expr, first, operand.op, operand.expr)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        tested, point = self._point(node.node, ()), self._point(node)
        self.generic_visit(node)
        node.node = self._call("truth", node.node, tested)
        return self._call("truth", node, point)

    def visit_Mul(self, node: nodes.Mul) -> nodes.Node:
        return self._part(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        if isinstance(node.arg, nodes.Slice):
            return self._part(node)
        if isinstance(node.arg, nodes.Const) or node.ctx != "load":
            self.generic_visit(node)
            return node
        point = self._point(node)
        self.generic_visit(node)
        return self._call("item", node.node, point, node.arg)

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        owner, named = node.node, node.kwargs or node.dyn_args or node.dyn_kwargs
        getting = isinstance(owner, nodes.Getattr) and owner.attr == "get" and not named
        if not getting or not node.args or isinstance(node.args[0], nodes.Const):
            self.generic_visit(node)
            return node
        point = self._point(node)
        self.generic_visit(node)
        return self._call("get", cast("nodes.Getattr", node.node).node, point, *node.args)

    def visit_If(self, node: nodes.If) -> nodes.Node:
        return self._test(node, (True, False) if node.else_ or node.elif_ else (True,))

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.Node:
        return self._test(node, (True, False))

    def visit_And(self, node: nodes.And) -> nodes.Node:
        return self._sides(node, (True,))

    def visit_Or(self, node: nodes.Or) -> nodes.Node:
        return self._sides(node, (False,))

    def visit_For(self, node: nodes.For) -> nodes.Node:
        point = self._point(node.iter, (True, False) if node.else_ else (True,))
        test = self._point(node.test, (True,)) if node.test else None
        self.generic_visit(node)
        node.iter = self._call("loop", node.iter, point)
        if node.test and test is not None:
            node.test = self._call("truth", node.test, test)
        return node

    def _part(self, node: nodes.Expr) -> nodes.Node:
        """Of what may be a text as often as a number says, or a part of one: is it empty?"""
        point = self._point(node, (True,))
        self.generic_visit(node)
        return self._call("truth", node, point)

    def _test(self, node: Any, matters: tuple[bool, ...]) -> nodes.Node:
        point = self._point(node.test, matters)
        self.generic_visit(node)
        node.test = self._call("truth", node.test, point)
        return cast("nodes.Node", node)

    def _sides(self, node: nodes.And | nodes.Or, matters: tuple[bool, ...]) -> nodes.Node:
        left, right = self._point(node.left, matters), self._point(node.right, ())
        self.generic_visit(node)
        node.left = self._call("truth", node.left, left)
        node.right = self._call("truth", node.right, right)
        return node

    def _point(self, node: nodes.Node, matters: tuple[bool, ...] = (True, False)) -> int:
        points = self.watch.points
        if len(points) >= MAX_POINTS:
            raise ValueError(f"it has more than {MAX_POINTS} conditions")
        points.append(Point(node.lineno, repr((matters, form_of(node))), matters))
        return len(points) - 1

    def _call(self, name: str, node: Any, *arguments: Any) -> nodes.Expr:
        given = [a if isinstance(a, nodes.Node) else nodes.Const(a) for a in arguments]
        call = nodes.Filter(node, self.names[name], given, [], None, None)
        return cast("nodes.Expr", call.set_lineno(node.lineno))


def _listen(environment: "ImmutableSandboxedEnvironment", watch: Watch) -> None:
    """Let an environment write down which texts methods, filters and tests look for."""

    def heard(name: str, function: Callable[..., Any], position: int) -> Callable[..., Any]:
        @functools.wraps(function)
        def listening(*args: Any, **named: Any) -> Any:
            given = args[position:]
            if given:
                watch.looked_for(name, given[0], (*given[1:], *named.values()))
            return function(*args, **named)

        return listening

    tables: tuple[dict[str, Any], ...] = (environment.filters, environment.tests)
    for table in tables:
        for name, function in table.items():
            # Some want the context, or the like, before the value.
            table[name] = heard(name, function, int(hasattr(function, "jinja_pass_arg")))
    call = environment.call

    def calling(context: Any, function: Any, /, *args: Any, **named: Any) -> Any:
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str):
            words = [w for a in args for w in (a if isinstance(a, tuple) else (a,))]
            watch.looked_for(name, owner, tuple(words))
        elif isinstance(owner, dict) and args and isinstance(args[0], str | int):
            watch.saw((name, args[0]), args[0] in owner, Hint("key", args[0], owner))
        return call(context, function, *args, **named)

    environment.call = calling  # type: ignore[method-assign]
