"""Opens and reads files safely: only regular files, and only up to a given size.

Reading a pipe can block forever, and a device has no end. A path is therefore opened without
blocking, and its file type is checked on the open handle before the first byte is read. Symbolic
links are followed, because model caches use them; `adapter/folder.py` does not follow the links of
an adapter. Every failure is an OSError, including a path with a NUL and a path that is not a
regular file.
"""

import errno
import os
import stat
from io import FileIO
from pathlib import Path

_CHUNK = 1 << 20
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotReadableError(OSError):
    """A path is not a regular file, or the file is larger than the limit."""

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: Path | str) -> FileIO:
    """Open a regular file for reading, without blocking.

    Raises:
        OSError: The file cannot be opened, or is not a regular file.
    """
    try:
        before = Path(path).stat().st_mode  # opening a device can already have an effect
        if not stat.S_ISREG(before):
            raise _not_regular(before)
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise NotReadableError(errno.EINVAL, f"not a valid file name: {error}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _not_regular(mode)
    return FileIO(descriptor, "rb")


def read_regular(path: Path | str, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: As `open_regular`, or the file is larger than ``max_bytes``.
    """
    with open_regular(path) as handle:
        if os.fstat(handle.fileno()).st_size > max_bytes:
            raise _too_large(max_bytes)
        data = bytearray()
        while chunk := handle.read(_CHUNK):
            data += chunk
            if len(data) > max_bytes:  # the file grew, or its reported size was wrong
                raise _too_large(max_bytes)
    return bytes(data)


def read_text(path: Path | str, max_bytes: int, encoding: str = "utf-8") -> str:
    r"""Return the text of a regular file, with every line ending as ``\n``.

    Raises:
        OSError: As `read_regular`.
        UnicodeDecodeError: The file has a different encoding.
    """
    text = read_regular(path, max_bytes).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def require_regular(path: Path | str, max_bytes: int | None = None) -> None:
    """Check a file that a library is about to open by its path.

    Raises:
        OSError: The file cannot be opened, is not a regular file, or is larger than ``max_bytes``.
    """
    with open_regular(path) as handle:
        if max_bytes is not None and os.fstat(handle.fileno()).st_size > max_bytes:
            raise _too_large(max_bytes)


def require_regular_below(folder: Path) -> None:
    """Check everything in a folder that a library is about to read.

    Raises:
        OSError: An entry is neither a regular file nor a folder.
    """
    for path in folder.rglob("*"):
        mode = path.stat().st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise _not_regular(mode)


def _not_regular(mode: int) -> NotReadableError:
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")
    return NotReadableError(errno.EINVAL, f"not a regular file: it is {kind}")


def _too_large(max_bytes: int) -> NotReadableError:
    limit = f"{max_bytes >> 20} MiB" if max_bytes >= 1 << 20 else f"{max_bytes} bytes"
    return NotReadableError(errno.EOVERFLOW, f"larger than {limit}")
