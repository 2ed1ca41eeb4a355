"""The form of a chat template: equal for templates that are only written otherwise.

Imported by the child that renders templates; see `template_rendering_child`.
"""

from typing import Any


def form_of(node: Any) -> Any:
    """Return a template's tree without what changes nothing in what it writes.

    Marks around an answer are gone, unless what is set between them would be meant to stay there.
    A text is a text, whether it stands alone, in an expression or joined to others: where one of
    several operands is a text, ``+`` writes one behind the other.
    ``a.b`` is ``a['b']``, and ``elif`` is an ``if`` in ``else``.
    """
    from jinja2 import nodes

    match node:
        case list() | tuple():
            form: Any = _joined([part for item in node for part in _written(item)])
        case nodes.If() if node.elif_:
            first, *others = node.elif_
            inner = nodes.If(first.test, first.body, others, node.else_)
            form = form_of(nodes.If(node.test, node.body, [], [inner]))
        case nodes.Getattr() if not hasattr({}, node.attr):
            form = ("Getitem", form_of(node.node), ("Const", "str", repr(node.attr)))
        case nodes.Getitem():
            form = ("Getitem", form_of(node.node), form_of(node.arg))
        case nodes.Const():
            form = ("Const", type(node.value).__name__, repr(node.value))
        case nodes.Node():
            form = (type(node).__name__, *((name, form_of(v)) for name, v in node.iter_fields()))
        case _:
            form = node
    return form


def _written(node: Any) -> list[Any]:
    """Return what a statement writes, piece by piece: texts, and the forms of everything else."""
    from jinja2 import nodes

    match node:
        case nodes.Output():
            return [piece for part in node.nodes for piece in _pieces(part)]
        case nodes.CallBlock() if _is_mark(node):
            return [piece for part in node.body for piece in _written(part)]
    return [form_of(node)]


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
    return [form_of(node)]


def _operands(node: Any) -> list[Any]:
    from jinja2 import nodes

    if isinstance(node, nodes.Add):
        return [*_operands(node.left), *_operands(node.right)]
    return [node.value] if isinstance(getattr(node, "value", 0), str) else [form_of(node)]


def _joined(parts: list[Any]) -> Any:
    """Join texts that follow one another, and leave out empty ones."""
    found: list[Any] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        elif part != "":
            found.append(part)
    return tuple(found)


def _is_mark(block: Any) -> bool:
    """Whether a block marks an answer, and what it holds writes the same without the mark.

    A mark is called as a macro: what is set in it is gone behind it, and some names mean its own.
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
