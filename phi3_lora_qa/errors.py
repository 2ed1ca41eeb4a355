"""Every error that the package raises on purpose, on the lowest floor so that no import loops.

A message says what is wrong, where, and ends with how to mend it. The commands print it as one
line and exit with 2; the plugin turns it into a finding or into one line and exit status 2.
"""

import re

_COMMAND = re.compile("##|^ *::")


class Phi3LoraQAError(Exception):
    """Base of all errors raised on purpose; catch this one to catch them all."""


class InputError(Phi3LoraQAError, ValueError):
    """Something the user gave cannot be used: a path, a setting, a config or a data file."""


class AdapterError(InputError):
    """An adapter folder cannot be read safely, or is no adapter folder."""


class BaseModelError(InputError):
    """A base model is unknown, unreadable, or no Phi-3."""


class DataError(InputError):
    """A data set or suite does not hold what it must; the message gives file and line."""


class MissingDependencyError(Phi3LoraQAError, ImportError):
    """An optional package is missing; the message gives the pip command that brings it."""


class IncompatibleLibraryError(Phi3LoraQAError, ImportError):
    """An installed library lacks what is needed of it; the message names its version, and a fix."""


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
