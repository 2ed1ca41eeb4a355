"""The sandbox that renders chat templates, and descriptions of the errors of a template.

The child that renders templates imports this module; see `template_rendering_child`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.ext import Extension
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_MIB = 512
"""Address space of the child in MiB, including about 30 for the interpreter."""

MAX_CHARACTERS = 1 << 20
"""Characters in all rendered texts together; a prompt has some hundreds."""

MAX_MESSAGE = 400
"""Characters of an error message, which may quote the template."""

_TEMPLATE_FILE = "<template>"  # jinja2's file name of a template that is made from a string


class TooLongError(Exception):
    """The rendered texts exceed the limit."""


@dataclass
class Clock:
    """The time and the random choices that a template sees.

    Attributes:
        now: The time for everything that one child renders, so that two texts can be compared.
        fixed_text: The text to return instead of the formatted time, or None.
        choice: The index of the item that ``random`` chooses.
        last_text: The last text that was returned.
    """

    now: datetime
    fixed_text: str | None = None
    choice: int = 0
    last_text: str | None = None

    def strftime(self, form: str) -> str:
        """Return the formatted time, as ``strftime_now``."""
        self.last_text = self.now.strftime(form) if self.fixed_text is None else self.fixed_text
        return self.last_text

    def choose(self, items: Sequence[Any]) -> Any:
        """Choose an item, as the filter ``random``."""
        return items[self.choice % len(items)]


def make_environment(clock: Clock) -> "ImmutableSandboxedEnvironment":
    """Return the sandbox in which transformers renders chat templates.

    As in transformers: blocks are trimmed, loop controls are available, ``{% generation %}`` marks
    an answer, JSON is not escaped for HTML, and the internals of dictionaries and namespaces are
    not accessible.
    """
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    @jinja2.pass_context  # like jinja2's own, so that it is not evaluated at compile time
    def choose(context: Any, items: Sequence[Any]) -> Any:
        return clock.choose(items)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_generation_extension(), jinja2.ext.loopcontrols],
    )
    environment.filters |= {"tojson": _tojson, "random": choose}
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": clock.strftime,
        "dict": _Dictionary(),
        "namespace": _namespace_type(),
    }
    return environment


def _generation_extension() -> "type[Extension]":
    import jinja2.ext
    from jinja2 import nodes

    class Generation(jinja2.ext.Extension):
        """The tag around the model's answer; it adds nothing to the text."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: "Parser") -> "Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_body")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _body(self, caller: "Macro") -> str:
            return caller()

    return Generation


def _namespace_type() -> type:
    from jinja2.utils import Namespace

    class Attributes(Namespace):
        """A namespace without private attributes."""

        def __init__(*args: Any, **fields: Any) -> None:
            attributes = dict(*args[1:], **fields)
            for name in attributes:
                _check_attribute(name)
            Namespace.__init__(args[0], attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_attribute(name)
            Namespace.__setitem__(self, name, value)

    return Attributes


def _check_attribute(name: Any) -> None:
    from jinja2.exceptions import SecurityError

    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no attribute {name!r}")


class _Dictionary:
    def __call__(self, *args: Any, **fields: Any) -> dict[Any, Any]:
        return dict(*args, **fields)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _raise_exception(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _tojson(
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


def render(
    template: "Template", variables: Mapping[str, Any], max_characters: int = MAX_CHARACTERS
) -> str | dict[str, str]:
    """Return the text of a template, or its refusal by raise_exception.

    Raises:
        TooLongError: The text has more than ``max_characters`` characters.
        Exception: Any error of the template.
    """
    from jinja2.exceptions import TemplateError

    pieces = []
    try:
        for piece in template.generate(variables):
            max_characters -= len(piece)
            if max_characters < 0:
                raise TooLongError
            pieces.append(piece)
    except TemplateError as error:
        if type(error) is TemplateError:  # jinja2 itself raises only subclasses
            return {"refusal": truncate(str(error))}
        raise
    return "".join(pieces)


def explain(error: Exception) -> str:
    """Describe the error of a template."""
    from jinja2.exceptions import SecurityError, TemplateSyntaxError

    match error:
        case MemoryError():
            return f"needed more than {MEMORY_MIB} MiB of memory"
        case RecursionError():
            return "endless recursion, or nesting that is too deep"
        case TooLongError():
            return f"wrote more than {MAX_CHARACTERS} characters"
        case TemplateSyntaxError():
            return f"syntax error in line {error.lineno}: {truncate(str(error.message))}"
    message = truncate(str(error))
    if isinstance(error, SecurityError) or message.startswith("Range too big"):
        return f"refused by the sandbox{_line(error)}: {message}"
    return f"{type(error).__name__}{_line(error)}: {message}"


def _line(error: Exception) -> str:
    """Return the line of the template that raised an error; jinja2 puts it in the traceback."""
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _TEMPLATE_FILE:
            found = f" in line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def truncate(text: str) -> str:
    """Shorten a text that is too long for a message."""
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
