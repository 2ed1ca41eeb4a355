"""Render a stranger's chat templates: a small program that `rendering` starts and can end.

Jinja's sandbox keeps a template from the interpreter, but not from its time and memory. So this
runs as a process of its own, gives up what it does not need, and only then reads the template.

`child` runs it by its path, within limits, without environment and site-packages; its arguments are
the folders that hold jinja2 and what jinja2 needs. It imports nothing else, the package included.
On stdin it takes one JSON object: ``templates``, ``special_tokens`` (name to text) and
``conversations``, each with ``messages`` and ``add_generation_prompt``. On stdout it writes `READY`
when the templates are about to be read, then a JSON list with an object for each: ``form``, which
two templates share that are the same but for the way they are written, and ``texts``, in which an
object ``{"refusal": message}`` stands for a conversation that the template itself refuses; or
``error``.
"""

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_MIB = 512
"""Of address space, the interpreter's own 30 or so included."""

MAX_CHARACTERS = 1 << 20
"""In all texts together; a prompt has some hundreds."""

MAX_MESSAGE = 400
"""Characters of an error's text, which may quote the template."""

READY = b"ready\n"
_TEMPLATE_FILE = "<template>"  # what jinja2 calls a template made from a string


class _TooLongError(Exception):
    """The texts have grown over the cap."""


def main() -> None:
    """Take the job from stdin, and write the answer to stdout."""
    sys.path.extend(sys.argv[1:])
    environment = make_environment()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    answers = answers_to(json.load(sys.stdin.buffer), environment)
    # ASCII: a lone surrogate in a text has no bytes of its own.
    sys.stdout.buffer.write(json.dumps(answers).encode("ascii"))


def make_environment() -> "ImmutableSandboxedEnvironment":
    """Return the sandbox that transformers renders chat templates in.

    Like there: blocks are trimmed, loops can be left, ``{% generation %}`` marks an answer, JSON
    is not escaped for HTML, and dictionaries and namespaces keep their inner parts to themselves.
    """
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(jinja2.ext.Extension):
        """The tag around what the model is to write; it adds nothing to the text."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own form

        def parse(self, parser: "Parser") -> "Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_body")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _body(self, caller: "Macro") -> str:
            return caller()

    class Dictionary:
        def __call__(self, *args: Any, **fields: Any) -> dict[Any, Any]:
            return dict(*args, **fields)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    class Attributes(Namespace):
        def __init__(*args: Any, **fields: Any) -> None:
            attributes = dict(*args[1:], **fields)
            for name in attributes:
                check_name(name)
            Namespace.__init__(args[0], attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check_name(name)
            Namespace.__setitem__(self, name, value)

    def check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace has no attribute {name!r}")

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        from datetime import datetime

        return datetime.now().strftime(form)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": Dictionary(),
        "namespace": Attributes,
    }
    return environment


def answers_to(
    job: Mapping[str, Any], environment: "ImmutableSandboxedEnvironment"
) -> list[dict[str, Any]]:
    """Render every conversation with every template, within one cap on what they write."""
    room = MAX_CHARACTERS
    answers = []
    for text in job["templates"]:
        answer = _answer(text, job, environment, room)
        room -= sum(len(part) for part in answer.get("texts", ()) if isinstance(part, str))
        answers.append(answer)
    return answers


def _answer(
    text: str, job: Mapping[str, Any], environment: "ImmutableSandboxedEnvironment", room: int
) -> dict[str, Any]:
    """Render every conversation, or say what went wrong with the first that fails."""
    try:
        template = environment.from_string(text)
        texts: list[str | dict[str, str]] = []
        for conversation in job["conversations"]:
            part = _render(template, conversation, job["special_tokens"], room)
            room -= len(part) if isinstance(part, str) else 0
            texts.append(part)
        form = repr(form_of(environment.parse(text))).encode("utf-8", "surrogatepass")
    except Exception as error:  # whatever a template does is what the answer tells
        return {"error": _cut(explain(error))}
    import hashlib  # jinja2 has loaded it; the parent, which imports this module, need not

    return {"texts": texts, "form": hashlib.sha256(form).hexdigest()}


def form_of(node: Any) -> Any:
    """Return a template's tree without what changes nothing in what it writes.

    Marks around an answer are gone. A text is a text, whether it stands alone, in an expression or
    joined to others: where one of several operands is a text, ``+`` writes one behind the other.
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
        case nodes.CallBlock() if _is_mark(node.call):
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


def _is_mark(call: Any) -> bool:
    owner = getattr(call, "node", None)
    return getattr(owner, "identifier", "").endswith(".Generation")


def explain(error: Exception) -> str:
    """Return what a template did wrong, in words."""
    from jinja2.exceptions import SecurityError, TemplateSyntaxError

    match error:
        case MemoryError():
            return f"needed more than {MEMORY_MIB} MiB of memory"
        case RecursionError():
            return "calls itself without end, or is nested too deeply"
        case _TooLongError():
            return f"wrote more than {MAX_CHARACTERS} characters"
        case TemplateSyntaxError():
            return f"syntax error in line {error.lineno}: {_cut(str(error.message))}"
    said = _cut(str(error))
    if isinstance(error, SecurityError) or said.startswith("Range too big"):
        return f"refused by the sandbox{_line(error)}: {said}"
    return f"{type(error).__name__}{_line(error)}: {said}"


def _render(
    template: "Template", conversation: Mapping[str, Any], tokens: Mapping[str, str], room: int
) -> str | dict[str, str]:
    from jinja2.exceptions import TemplateError

    names = {**tokens, **conversation, "tools": None, "documents": None}
    pieces = []
    try:
        for piece in template.generate(names):
            room -= len(piece)
            if room < 0:
                raise _TooLongError
            pieces.append(piece)
    except TemplateError as error:
        if type(error) is TemplateError:  # jinja2 itself raises subclasses only
            return {"refusal": _cut(str(error))}
        raise
    return "".join(pieces)


def _line(error: Exception) -> str:
    """Return where in the template an error arose; jinja2 writes its lines into the traceback."""
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _TEMPLATE_FILE:
            found = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


if __name__ == "__main__":
    main()
