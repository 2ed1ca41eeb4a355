# ruff: noqa: N802 - jinja2 finds the methods of a visitor by the names of its nodes
"""Traces which branches of a chat template a rendering takes, and which comparisons decide them.

The syntax tree is rewritten: each condition, comparison, loop and lookup passes through a filter
that records what it sees and changes nothing. The recorded operands of a comparison show which
change of the conversation would flip a condition. The child that renders templates imports this
module; see `template_rendering_child`.
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

from phi3_lora_qa.adapter.chat_template.template_normal_form import normal_form
from phi3_lora_qa.adapter.chat_template.template_sandbox import Clock, make_environment, render

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CONDITIONS = 2000
"""Conditions of a template; more are an error."""

_MAX_HINTS = 24  # per rendering
_MAX_TABLE = 64
_MAX_CALLS = 64  # calls that search a text, whose outcomes are recorded

_FILTERS = ("truth", "compare", "item", "get", "loop")
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gteq": operator.ge,
    "lt": operator.lt, "lteq": operator.le,
    "in": lambda left, right: left in right, "notin": lambda left, right: left not in right,
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """An expression whose value decides what a template does.

    Attributes:
        line: The line in the template.
        form: A normal form, equal for conditions that test the same.
        required: The outcomes that must be seen: with each of them the template does something
            that it does not do otherwise.
    """

    line: int
    form: str
    required: tuple[bool, ...] = (True, False)


@dataclass(frozen=True)
class Hint:
    """Two values that a template compared, and the kind of comparison."""

    kind: str
    left: Any
    right: Any


@dataclass
class BranchTrace:
    """The conditions of a template, and the outcomes seen so far.

    Attributes:
        conditions: The conditions.
        outcomes: The outcomes of each condition so far, by index; and those of calls that search a
            text, by (name, needle).
        has_new: Whether the last rendering had a new outcome, or compared a new type of value.
        hints: The comparisons of the last rendering where an outcome has not been seen yet.
    """

    conditions: list[Condition] = field(default_factory=list)
    outcomes: dict[Any, set[bool]] = field(default_factory=dict)
    has_new: bool = False
    hints: list[Hint] = field(default_factory=list)
    _tables: dict[int, tuple[list[Any], set[str]]] = field(default_factory=dict)
    _types: set[tuple[Any, ...]] = field(default_factory=set)

    def record(self, key: Any, outcome: bool, hint: Hint | None = None) -> None:
        """Record an outcome, and the comparison behind it while the other outcome is unseen."""
        seen = self.outcomes.setdefault(key, set())
        types = (key, type(hint.left), type(hint.right)) if hint else (key,)
        if outcome not in seen or types not in self._types:
            seen.add(outcome)
            self._types.add(types)
            self.has_new = True
        if hint and len(seen) < 2 and len(self.hints) < _MAX_HINTS and hint not in self.hints:
            self.hints.append(hint)

    def record_search(self, name: str, text: Any, needles: tuple[Any, ...]) -> None:
        """Record that a method or filter searched a text for some needles."""
        for needle in needles:
            key = (name, needle)
            known = key in self.outcomes or len(self.outcomes) < len(self.conditions) + _MAX_CALLS
            if known and isinstance(text, str) and isinstance(needle, str) and needle:
                self.record(key, needle in text, Hint("in", needle, text))

    def record_lookup(self, condition: int, table: Any, key: Any) -> None:
        """Record whether a key was not in a table, and whether all keys have been read by now.

        A table that changes between renderings is not a table of the template itself.
        """
        if not isinstance(table, dict | list | tuple | str):
            self.outcomes[condition] = {True, False}
            return
        keys: list[Any] = list(table) if isinstance(table, dict) else list(range(len(table)))
        first, read = self._tables.setdefault(condition, (list(table), set()))
        from_end = not isinstance(table, dict) and isinstance(key, int) and key < 0
        read.add(repr(key + len(keys) if from_end else key))
        unread = [k for k in keys if repr(k) not in read]
        hint = Hint("in", key, unread[:8])
        if key not in keys or not isinstance(table, dict):
            missing = Hint("key", key, table) if isinstance(table, dict) else hint
            self.record(condition, False, missing)
        if not unread or len(keys) > _MAX_TABLE or list(table) != first:
            self.record(condition, True)
        elif len(self.hints) < _MAX_HINTS:
            self.hints.append(hint)

    def uncovered(self) -> list[Condition]:
        """Return the conditions that lack a required outcome."""
        numbered = enumerate(self.conditions)
        return [c for n, c in numbered if not set(c.required) <= self.outcomes.get(n, set())]

    def is_covered(self) -> bool:
        """Whether every required outcome was seen, and both outcomes of every recorded call."""
        return not self.uncovered() and all(len(seen) > 1 for seen in self.outcomes.values())


class TracedTemplate:
    """A chat template that can be rendered with and without tracing."""

    def __init__(self, text: str, clock: Clock) -> None:
        self.trace = BranchTrace()
        self.clock = clock
        environment = make_environment(clock)
        self.tree = environment.parse(text)
        self.untraced = environment.from_string(text)
        self.form = repr(normal_form(self.tree))
        self._traced = _instrumented(text, make_environment(clock), self.trace)

    def text(self, variables: Mapping[str, Any], *, untraced: bool = False) -> str | None:
        """Return the rendered text; None if the template refuses or fails.

        Raises:
            MemoryError, RecursionError, TooLongError: The template exceeds a limit.
        """
        self.trace.has_new, self.trace.hints = False, []
        try:
            rendered = render(self.untraced if untraced else self._traced, variables)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
            return None
        return rendered if isinstance(rendered, str) else None


class _Filters:
    """The filters that conditions pass through; each returns what jinja2 would have computed.

    They take the context, which prevents jinja2 from evaluating them at compile time.
    """

    def __init__(self, trace: BranchTrace) -> None:
        self.trace = trace

    @pass_context
    def truth(self, context: Context, value: Any, condition: int) -> Any:
        self.trace.record(condition, bool(value), Hint("kind", value, None))
        return value

    @pass_context
    def compare(self, context: Context, left: Any, condition: int, kind: str, right: Any) -> Any:
        result = _OPERATORS[kind](left, right)
        self.trace.record(condition, bool(result), Hint(kind.removeprefix("not"), left, right))
        return result

    @pass_context
    def item(self, context: Context, value: Any, condition: int, key: Any) -> Any:
        self.trace.record_lookup(condition, value, key)
        return context.environment.getitem(value, key)

    @pass_context
    def get(self, context: Context, value: Any, condition: int, *arguments: Any) -> Any:
        self.trace.record_lookup(condition, value, arguments[0])
        environment: Any = context.environment
        return environment.call(context, environment.getattr(value, "get"), *arguments)

    @pass_context
    def loop(self, context: Context, value: Any, condition: int) -> Any:
        items = value if hasattr(value, "__len__") else list(value)
        self.trace.record(condition, len(items) > 0)
        return items


def _instrumented(
    text: str, environment: "ImmutableSandboxedEnvironment", trace: BranchTrace
) -> Template:
    """Return a template that records its branches in a trace."""
    _record_searches(environment, trace)
    filters = _Filters(trace)
    # Random names, which a template cannot know and therefore cannot use.
    names = {name: f"{name} {os.urandom(8).hex()}" for name in _FILTERS}
    environment.filters |= {hidden: getattr(filters, name) for name, hidden in names.items()}
    tree = _Rewriter(trace, names).visit(environment.parse(text))
    tree.set_environment(environment)
    # As Environment.from_string does with a text.
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.make_globals(None), None)


class _Rewriter(NodeTransformer):
    """Wraps each condition, comparison, loop and lookup of a tree in a filter."""

    def __init__(self, trace: BranchTrace, names: Mapping[str, str]) -> None:
        self.trace, self.names = trace, names

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        condition = self._condition(node)
        self.generic_visit(node)
        if len(node.ops) > 1:
            return self._call("truth", node, condition)
        operand = node.ops[0]
        return self._call("compare", node.expr, condition, operand.op, operand.expr)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        tested, condition = self._condition(node.node, ()), self._condition(node)
        self.generic_visit(node)
        node.node = self._call("truth", node.node, tested)
        return self._call("truth", node, condition)

    def visit_Mul(self, node: nodes.Mul) -> nodes.Node:
        return self._possibly_empty(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        if isinstance(node.arg, nodes.Slice):
            return self._possibly_empty(node)
        if isinstance(node.arg, nodes.Const) or node.ctx != "load":
            self.generic_visit(node)
            return node
        condition = self._condition(node)
        self.generic_visit(node)
        return self._call("item", node.node, condition, node.arg)

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        owner, keywords = node.node, node.kwargs or node.dyn_args or node.dyn_kwargs
        is_get = isinstance(owner, nodes.Getattr) and owner.attr == "get" and not keywords
        if not is_get or not node.args or isinstance(node.args[0], nodes.Const):
            self.generic_visit(node)
            return node
        condition = self._condition(node)
        self.generic_visit(node)
        return self._call("get", cast("nodes.Getattr", node.node).node, condition, *node.args)

    def visit_If(self, node: nodes.If) -> nodes.Node:
        return self._test(node, (True, False) if node.else_ or node.elif_ else (True,))

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.Node:
        return self._test(node, (True, False))

    def visit_And(self, node: nodes.And) -> nodes.Node:
        return self._operands(node, (True,))

    def visit_Or(self, node: nodes.Or) -> nodes.Node:
        return self._operands(node, (False,))

    def visit_For(self, node: nodes.For) -> nodes.Node:
        condition = self._condition(node.iter, (True, False) if node.else_ else (True,))
        test = self._condition(node.test, (True,)) if node.test else None
        self.generic_visit(node)
        node.iter = self._call("loop", node.iter, condition)
        if node.test and test is not None:
            node.test = self._call("truth", node.test, test)
        return node

    def _possibly_empty(self, node: nodes.Expr) -> nodes.Node:
        """Trace whether a repeated text, or a part of a text, is empty."""
        condition = self._condition(node, (True,))
        self.generic_visit(node)
        return self._call("truth", node, condition)

    def _test(self, node: Any, required: tuple[bool, ...]) -> nodes.Node:
        condition = self._condition(node.test, required)
        self.generic_visit(node)
        node.test = self._call("truth", node.test, condition)
        return cast("nodes.Node", node)

    def _operands(self, node: nodes.And | nodes.Or, required: tuple[bool, ...]) -> nodes.Node:
        left, right = self._condition(node.left, required), self._condition(node.right, ())
        self.generic_visit(node)
        node.left = self._call("truth", node.left, left)
        node.right = self._call("truth", node.right, right)
        return node

    def _condition(self, node: nodes.Node, required: tuple[bool, ...] = (True, False)) -> int:
        conditions = self.trace.conditions
        if len(conditions) >= MAX_CONDITIONS:
            raise ValueError(f"it has more than {MAX_CONDITIONS} conditions")
        form = repr((required, normal_form(node)))
        conditions.append(Condition(node.lineno, form, required))
        return len(conditions) - 1

    def _call(self, name: str, node: Any, *arguments: Any) -> nodes.Expr:
        given = [a if isinstance(a, nodes.Node) else nodes.Const(a) for a in arguments]
        call = nodes.Filter(node, self.names[name], given, [], None, None)
        return cast("nodes.Expr", call.set_lineno(node.lineno))


def _record_searches(environment: "ImmutableSandboxedEnvironment", trace: BranchTrace) -> None:
    """Make an environment record which texts methods, filters and tests search for."""

    def recorded(name: str, function: Callable[..., Any], position: int) -> Callable[..., Any]:
        @functools.wraps(function)
        def recording(*args: Any, **keywords: Any) -> Any:
            given = args[position:]
            if given:
                trace.record_search(name, given[0], (*given[1:], *keywords.values()))
            return function(*args, **keywords)

        return recording

    tables: tuple[dict[str, Any], ...] = (environment.filters, environment.tests)
    for table in tables:
        for name, function in table.items():
            # Some take the context or the environment before the value.
            table[name] = recorded(name, function, int(hasattr(function, "jinja_pass_arg")))
    call = environment.call

    def recording_call(context: Any, function: Any, /, *args: Any, **keywords: Any) -> Any:
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str):
            needles = [w for a in args for w in (a if isinstance(a, tuple) else (a,))]
            trace.record_search(name, owner, tuple(needles))
        elif isinstance(owner, dict) and args and isinstance(args[0], str | int):
            trace.record((name, args[0]), args[0] in owner, Hint("key", args[0], owner))
        return call(context, function, *args, **keywords)

    environment.call = recording_call  # type: ignore[method-assign]
