"""A normal form of chat templates: equal for templates that differ only in their syntax.

The child that renders templates imports this module; see `template_rendering_child`.
"""

from typing import Any


def normal_form(node: Any) -> Any:
    """Return a template's syntax tree without differences that do not affect the output.

    The marks around an answer are removed, unless a name that is set between them has to stay
    local. A text is the same whether it is template data, in an expression, or concatenated: if one
    of several operands is a text, ``+`` concatenates. ``a.b`` is ``a['b']``, and ``elif`` is an
    ``if`` in ``else``.
    """
    from jinja2 import nodes

    match node:
        case list() | tuple():
            form: Any = _joined([part for item in node for part in _output(item)])
        case nodes.If() if node.elif_:
            first, *others = node.elif_
            inner = nodes.If(first.test, first.body, others, node.else_)
            form = normal_form(nodes.If(node.test, node.body, [], [inner]))
        case nodes.Getattr() if not hasattr({}, node.attr):
            form = ("Getitem", normal_form(node.node), ("Const", "str", repr(node.attr)))
        case nodes.Getitem():
            form = ("Getitem", normal_form(node.node), normal_form(node.arg))
        case nodes.Const():
            form = ("Const", type(node.value).__name__, repr(node.value))
        case nodes.Node():
            fields = ((name, normal_form(value)) for name, value in node.iter_fields())
            form = (type(node).__name__, *fields)
        case _:
            form = node
    return form


def _output(node: Any) -> list[Any]:
    """Return the pieces that a statement outputs: texts, and the forms of everything else."""
    from jinja2 import nodes

    match node:
        case nodes.Output():
            return [piece for part in node.nodes for piece in _pieces(part)]
        case nodes.CallBlock() if _is_removable_mark(node):
            return [piece for part in node.body for piece in _output(part)]
    return [normal_form(node)]


def _pieces(node: Any) -> list[Any]:
    from jinja2 import nodes

    match node:
        case nodes.TemplateData():
            return [node.data]
        case nodes.Const() if isinstance(node.value, str):
            return [node.value]
        case nodes.Concat():
            return [piece for part in node.nodes for piece in _pieces(part)]
        case nodes.Add() if any(isinstance(part, str) for part in _operands(node)):
            return _operands(node)
    return [normal_form(node)]


def _operands(node: Any) -> list[Any]:
    from jinja2 import nodes

    if isinstance(node, nodes.Add):
        return [*_operands(node.left), *_operands(node.right)]
    return [node.value] if isinstance(getattr(node, "value", 0), str) else [normal_form(node)]


def _joined(parts: list[Any]) -> Any:
    """Join adjacent texts, and remove empty ones."""
    found: list[Any] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        elif part != "":
            found.append(part)
    return tuple(found)


def _is_removable_mark(block: Any) -> bool:
    """Whether a block marks an answer, and its body outputs the same without the mark.

    A mark is called as a macro: names that are set in it are local, and some names are its own.
    """
    from jinja2 import nodes

    owner = getattr(block.call, "node", None)
    if not getattr(owner, "identifier", "").endswith(".Generation"):
        return False
    if any(name.name in ("caller", "varargs", "kwargs") for name in block.find_all(nodes.Name)):
        return False
    scoped = (nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.Block)
    imports = (nodes.Import, nodes.FromImport, nodes.Include, nodes.Break, nodes.Continue)
    return block.find((*scoped, *imports)) is None
