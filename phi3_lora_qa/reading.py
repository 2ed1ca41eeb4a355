"""Every file that is read is a regular one of a bounded size: the one place that opens files.

A pipe would be waited on for ever, and a device never ends. So a path is opened without waiting,
and looked at through the handle before a byte is read. Links are followed, as in a model cache;
`adapter/folder.py` does not follow those of an adapter. Every error is an OSError, whatever the
path: that it holds a NUL, that no file system could have it, or that it is no regular file.
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
    """A path leads to no regular file, or to one that is larger than what is read."""

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: Path | str) -> FileIO:
    """Open a regular file for reading, without waiting for anybody.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    try:
        before = Path(path).stat().st_mode  # opening some devices acts on them
        if not stat.S_ISREG(before):
            raise _not_regular(before)
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise NotReadableError(errno.EINVAL, f"no file can have this name ({error})") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _not_regular(mode)
    return FileIO(descriptor, "rb")


def read_regular(path: Path | str, cap: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: As `open_regular`, or it is larger than ``cap`` bytes.
    """
    with open_regular(path) as handle:
        if os.fstat(handle.fileno()).st_size > cap:
            raise _too_large(cap)
        data = bytearray()
        while chunk := handle.read(_CHUNK):
            data += chunk
            if len(data) > cap:  # it grows, or its size is not told
                raise _too_large(cap)
    return bytes(data)


def read_text(path: Path | str, cap: int, encoding: str = "utf-8") -> str:
    r"""Return the text of a regular file, every line's end as ``\n``.

    Raises:
        OSError: As `read_regular`.
        UnicodeDecodeError: It is in another encoding.
    """
    text = read_regular(path, cap).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def require_regular(path: Path | str, cap: int | None = None) -> None:
    """Look at a file that a library is going to open by its path.

    Raises:
        OSError: It cannot be opened, is no regular file, or is larger than ``cap`` bytes.
    """
    with open_regular(path) as handle:
        if cap is not None and os.fstat(handle.fileno()).st_size > cap:
            raise _too_large(cap)


def require_regular_below(folder: Path) -> None:
    """Look at all that lies in a folder that a library is going to read.

    Raises:
        OSError: Something in it is neither a regular file nor a folder.
    """
    for path in folder.rglob("*"):
        mode = path.stat().st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise _not_regular(mode)


def _not_regular(mode: int) -> NotReadableError:
    kind = next((name for holds, name in _KINDS if holds(mode)), "something else")
    return NotReadableError(errno.EINVAL, f"it is {kind}, and no regular file")


def _too_large(cap: int) -> NotReadableError:
    size = f"{cap >> 20} MiB" if cap >= 1 << 20 else f"{cap} bytes"
    return NotReadableError(errno.EOVERFLOW, f"it has more than {size}")
