"""The sandbox that chat templates are rendered in, and what comes of one in it.

Imported by the child that renders templates; see `template_rendering_child`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_MIB = 512
"""Of the child's address space, the interpreter's own 30 or so included."""

MAX_CHARACTERS = 1 << 20
"""In all texts together; a prompt has some hundreds."""

MAX_MESSAGE = 400
"""Characters of an error's text, which may quote the template."""

_TEMPLATE_FILE = "<template>"  # what jinja2 calls a template made from a string


class TooLongError(Exception):
    """The texts have grown over the cap."""


@dataclass
class Clock:
    """What a template gets that changes by itself: the time, and a random choice.

    Attributes:
        moment: The time of everything that one child renders, so that two texts can be compared.
        words: What is told in place of the time, where that is not None.
        pick: Which item is chosen.
        told: What was told last.
    """

    moment: datetime
    words: str | None = None
    pick: int = 0
    told: str | None = None

    def tell(self, form: str) -> str:
        """Tell the time, as ``strftime_now``."""
        self.told = self.moment.strftime(form) if self.words is None else self.words
        return self.told

    def choose(self, items: Sequence[Any]) -> Any:
        """Choose an item, as the filter ``random``."""
        return items[self.pick % len(items)]


def make_environment(clock: Clock) -> "ImmutableSandboxedEnvironment":
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

    @jinja2.pass_context  # as jinja2's own, lest it be worked out beforehand
    def choose(context: Any, items: Sequence[Any]) -> Any:
        return clock.choose(items)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters |= {"tojson": tojson, "random": choose}
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": clock.tell,
        "dict": Dictionary(),
        "namespace": Attributes,
    }
    return environment


def render(
    template: "Template", names: Mapping[str, Any], room: int = MAX_CHARACTERS
) -> str | dict[str, str]:
    """Return a template's text, or its refusal by raise_exception.

    Raises:
        TooLongError: The text is longer than there is room for.
        Exception: Whatever the template does.
    """
    from jinja2.exceptions import TemplateError

    pieces = []
    try:
        for piece in template.generate(names):
            room -= len(piece)
            if room < 0:
                raise TooLongError
            pieces.append(piece)
    except TemplateError as error:
        if type(error) is TemplateError:  # jinja2 itself raises subclasses only
            return {"refusal": cut(str(error))}
        raise
    return "".join(pieces)


def explain(error: Exception) -> str:
    """Return what a template did wrong, in words."""
    from jinja2.exceptions import SecurityError, TemplateSyntaxError

    match error:
        case MemoryError():
            return f"needed more than {MEMORY_MIB} MiB of memory"
        case RecursionError():
            return "calls itself without end, or is nested too deeply"
        case TooLongError():
            return f"wrote more than {MAX_CHARACTERS} characters"
        case TemplateSyntaxError():
            return f"syntax error in line {error.lineno}: {cut(str(error.message))}"
    said = cut(str(error))
    if isinstance(error, SecurityError) or said.startswith("Range too big"):
        return f"refused by the sandbox{_line(error)}: {said}"
    return f"{type(error).__name__}{_line(error)}: {said}"


def _line(error: Exception) -> str:
    """Return where in the template an error arose; jinja2 writes its lines into the traceback."""
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _TEMPLATE_FILE:
            found = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def cut(text: str) -> str:
    """Return the beginning of a text that is too long for a message."""
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
