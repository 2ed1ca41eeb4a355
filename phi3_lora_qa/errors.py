"""The errors that the package raises on purpose, in the lowest layer so that all can import them.

A message says what is wrong, what was found, and how to fix it. The commands print it on one line
and exit with status 2; the plugin reports it as a finding, or on one line with exit status 2.
"""

import errno
import re
from collections.abc import Iterator

_COMMAND = re.compile("##|^ *::")
_MOST_CHARACTERS = 4_000


class Phi3LoraQAError(Exception):
    """Base class of all errors that the package raises on purpose.

    Its text is one printable line, even if it contains untrusted names and values.

    Example:
        >>> from phi3_lora_qa import Phi3LoraQAError
        >>> from phi3_lora_qa.training import load_config
        >>> from pathlib import Path
        >>> try:
        ...     load_config(Path("absent.toml"))
        ... except Phi3LoraQAError as error:
        ...     print(type(error).__name__)
        InputError
    """

    def __str__(self) -> str:
        return escape(super().__str__(), _MOST_CHARACTERS)


class InputError(Phi3LoraQAError, ValueError):
    """An input cannot be used: a path, a setting, a config or a data file.

    Example:
        >>> from phi3_lora_qa import InputError, load_record
        >>> try:
        ...     load_record("absent.json")
        ... except InputError:
        ...     print("caught")
        caught
    """


class AdapterError(InputError):
    """An adapter folder cannot be read safely, or is not an adapter folder.

    Attributes:
        what: What is wrong, and what was found.
        fix: How to fix it; empty if ``what`` contains it. The error's text is ``WHAT; FIX``.

    Example:
        >>> from phi3_lora_qa import AdapterError, lint
        >>> try:
        ...     lint("no/such/folder")
        ... except AdapterError:
        ...     print("caught")
        caught
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what, self.fix = what, fix


class BaseModelError(InputError):
    """A base model is unknown or unreadable, or is not a Phi-3 model.

    Example:
        >>> from phi3_lora_qa import BaseModelError
        >>> from phi3_lora_qa.models.registry import resolve_base
        >>> try:
        ...     resolve_base("no/such/folder/here")
        ... except BaseModelError:
        ...     print("caught")
        caught
    """


class DataError(InputError):
    """A data set or suite is invalid; the message has the file and line.

    Example:
        >>> from phi3_lora_qa import DataError
        >>> from phi3_lora_qa.data.chat_items import parse_item
        >>> try:
        ...     parse_item({"prompt": "Hi"}, "suite.jsonl:1", "row-1")
        ... except DataError:
        ...     print("caught")
        caught
    """


class MissingDependencyError(Phi3LoraQAError, ImportError):
    """An optional package is not installed; the message has the pip command.

    Example:
        >>> from phi3_lora_qa import MissingDependencyError
        >>> issubclass(MissingDependencyError, ImportError)
        True
    """


class IncompatibleLibraryError(Phi3LoraQAError, ImportError):
    """An installed library lacks a part that is needed; the message has its version and a fix.

    Example:
        >>> from phi3_lora_qa import IncompatibleLibraryError
        >>> issubclass(IncompatibleLibraryError, ImportError)
        True
    """


class MachineError(Phi3LoraQAError):
    """The machine ran out of a resource, so nothing is known about the adapter.

    Example:
        >>> from phi3_lora_qa import InputError, MachineError
        >>> issubclass(MachineError, InputError)
        False
    """


_SHORT_OF = {
    errno.ENOMEM: "memory; free some, or raise the limit (ulimit -v, or the job's limit)",
    errno.EMFILE: "file handles; close files, or raise the limit (ulimit -n)",
    errno.ENFILE: "file handles; close files, or raise the system's limit",
    errno.EAGAIN: "processes and threads; end some, or raise the limit (ulimit -u)",
    errno.ENOSPC: "disk space; free some, or set TMPDIR to a folder that has it",
    errno.EFBIG: "space for a file; raise the limit on file sizes (ulimit -f)",
    errno.EDQUOT: "disk space; free some, or set TMPDIR to a folder that has it",
}
_MESSAGES = (
    ("too many open files", errno.EMFILE),
    ("allocate memory", errno.ENOMEM),  # the loader of shared libraries, torch
    ("not enough memory", errno.ENOMEM),
    ("out of memory", errno.ENOMEM),
    ("failed to map segment", errno.ENOMEM),
    ("can't start new thread", errno.EAGAIN),
    ("resource temporarily unavailable", errno.EAGAIN),
    ("no space left on device", errno.ENOSPC),
    ("exception set", errno.ENOMEM),  # Python itself, without memory for the exception
    ("without setting an exception", errno.ENOMEM),
)
_NATIVE = (ImportError, RuntimeError, SystemError)
"""The kinds of errors that native libraries raise for a shortage, which only their text names."""


def shortage(error: BaseException) -> MachineError | None:
    """Return a MachineError if an error has a shortage as its cause; None otherwise.

    The chain of causes is searched, since a library often raises its own error after the real one.
    """
    if isinstance(error, MachineError):
        return error
    if isinstance(error, RecursionError):
        return MachineError(
            "Python's recursion limit was reached: something is nested too deeply; flatten it, or "
            "raise the limit"
        )
    numbers = filter(None, map(_errno_of, causes(error)))
    number = next(numbers, 0)
    return MachineError(f"the machine ran out of {_SHORT_OF[number]}") if number else None


def path_trouble(error: BaseException) -> InputError | None:
    """Return an error about a path that the system rejected; None for other errors."""
    if not isinstance(error, OSError) or error.filename is None or shortage(error):
        return None
    shown = escape(str(error.filename), 300)
    return InputError(
        f"cannot use {shown or 'an empty path'}: {error.strerror or type(error).__name__}; "
        "use another path, or make this one readable and writable"
    )


def reason_of(error: BaseException) -> str:
    """Return an error's reason as text; for an OSError without its number and path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, that error's cause, and so on."""
    for _ in range(20):  # a chain of causes may be circular
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _errno_of(error: BaseException) -> int:
    """Return the error number of the shortage that an error reports; 0 for other errors."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError):
        return error.errno if error.errno in _SHORT_OF else 0
    if isinstance(error, _NATIVE) and not isinstance(error, Phi3LoraQAError):
        words = str(error).lower()
        return next((number for text, number in _MESSAGES if text in words), 0)
    return 0


def escape(text: str, limit: int = 400) -> str:
    r"""Return untrusted text as one printable line, safe for a terminal, a CI log and XML.

    Control characters, line breaks, bidirectional marks and lone surrogates become ``\uXXXX``. So
    does the second character of a CI runner's command: ``##[`` and ``##vso[`` anywhere in a line,
    and ``::`` if only spaces precede it.

    Args:
        text: Any text.
        limit: The most characters to keep; longer text is cut and ends in ``…``.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in cut
    )
    return _COMMAND.sub(lambda found: f"{found[0][:-1]}\\x{ord(found[0][-1]):x}", line)
