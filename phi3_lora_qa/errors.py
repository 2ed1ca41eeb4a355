"""Every error that the package raises on purpose, on the lowest floor so that no import loops.

A message says what is wrong, where, and ends with how to mend it. The commands print it as one
line and exit with 2; the plugin turns it into a finding or into one line and exit status 2.
"""

import errno
import re
from collections.abc import Iterator

_COMMAND = re.compile("##|^ *::")


_MOST_OF_MESSAGE = 4_000


class Phi3LoraQAError(Exception):
    """Base of all errors raised on purpose; catch this one to catch them all.

    As text it is printable and one line, whatever names and values of others stand in it.
    """

    def __str__(self) -> str:
        return escape(super().__str__(), _MOST_OF_MESSAGE)


class InputError(Phi3LoraQAError, ValueError):
    """Something the user gave cannot be used: a path, a setting, a config or a data file."""


class AdapterError(InputError):
    """An adapter folder cannot be read safely, or is not an adapter folder.

    Attributes:
        what: What is wrong, and what was found.
        fix: How to fix it; empty if ``what`` says so already. The error's text is ``WHAT; FIX``.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.what, self.fix = what, fix


class BaseModelError(InputError):
    """A base model is unknown, unreadable, or no Phi-3."""


class DataError(InputError):
    """A data set or suite does not hold what it must; the message gives file and line."""


class MissingDependencyError(Phi3LoraQAError, ImportError):
    """An optional package is missing; the message gives the pip command that brings it."""


class IncompatibleLibraryError(Phi3LoraQAError, ImportError):
    """An installed library lacks what is needed of it; the message names its version, and a fix."""


class MachineError(Phi3LoraQAError):
    """The machine lacks what the work takes, so that nothing can be said of the adapter."""


_SHORT_OF = {
    errno.ENOMEM: "memory; free some, or raise its limit (ulimit -v, or the job's)",
    errno.EMFILE: "file handles; close files, or raise their limit (ulimit -n)",
    errno.ENFILE: "file handles; close files, or raise the system's limit",
    errno.EAGAIN: "processes and threads; end some, or raise their limit (ulimit -u)",
    errno.ENOSPC: "disk space; free some, or set TMPDIR to a folder that has it",
    errno.EFBIG: "room for a file; raise the limit on a file's size (ulimit -f)",
    errno.EDQUOT: "disk space; free some, or set TMPDIR to a folder that has it",
}
_SAYING_SO = (
    ("too many open files", errno.EMFILE),
    ("allocate memory", errno.ENOMEM),  # the loader of shared libraries, torch
    ("not enough memory", errno.ENOMEM),
    ("out of memory", errno.ENOMEM),
    ("failed to map segment", errno.ENOMEM),
    ("can't start new thread", errno.EAGAIN),
    ("resource temporarily unavailable", errno.EAGAIN),
    ("no space left on device", errno.ENOSPC),
    ("exception set", errno.ENOMEM),  # Python itself, where it has no memory for the exception
)
_NATIVE = (ImportError, RuntimeError, SystemError)
"""Kinds of error by which libraries that are not Python's say in words what they lack."""


def shortage(error: BaseException) -> MachineError | None:
    """Return what the machine ran short of, where that is what is behind an error.

    The errors that led to it count, too: a library's own error often stands before the real one.
    """
    if isinstance(error, MachineError):
        return error
    if isinstance(error, RecursionError):
        return MachineError(
            "Python's stack is too short; look for what is nested deeply, or raise its limit"
        )
    numbers = filter(None, map(_lacks, _behind(error)))
    number = next(numbers, 0)
    return MachineError(f"the machine is short of {_SHORT_OF[number]}") if number else None


def path_trouble(error: BaseException) -> InputError | None:
    """Return what is wrong with a path that the user gave, where the system refused it."""
    if not isinstance(error, OSError) or error.filename is None or shortage(error):
        return None
    shown = escape(str(error.filename), 300)
    return InputError(
        f"cannot use {shown or 'an empty path'}: {error.strerror or type(error).__name__}; "
        "give another path, or make this one readable and writable"
    )


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(20):  # a chain may be a ring
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _lacks(error: BaseException) -> int:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError):
        return error.errno if error.errno in _SHORT_OF else 0
    if isinstance(error, _NATIVE) and not isinstance(error, Phi3LoraQAError):
        words = str(error).lower()
        return next((number for said, number in _SAYING_SO if said in words), 0)
    return 0


def escape(text: str, limit: int = 400) -> str:
    r"""Make untrusted text safe for a terminal, a CI log and XML: printable, one line, bounded.

    Control characters, line breaks, bidirectional marks and lone surrogates become ``\uXXXX``. So
    does the second character of what a CI runner would take for its commands: ``##[`` and
    ``##vso[`` count anywhere in a line, ``::`` where nothing but blanks is before it.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in cut
    )
    return _COMMAND.sub(lambda found: f"{found[0][:-1]}\\x{ord(found[0][-1]):x}", line)
