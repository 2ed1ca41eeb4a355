"""Writing files so that a reader finds either the whole file or the old one."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape

FIX = "use a folder that you can write to"


def write_whole(path: Path, data: bytes, fix: str = FIX) -> None:
    """Write ``data`` to a temporary file next to ``path`` and rename it.

    Args:
        path: The file; an existing one is replaced.
        data: Its new content.
        fix: How the user can fix an error; the end of its message.

    Raises:
        InputError: The folder cannot be written, or ``path`` is a folder.
    """
    with staged({path: data}, fix) as ready:
        try:
            ready[path].replace(path)
        except OSError as error:
            raise unwritable(path, error, fix) from error


@contextmanager
def staged(files: Mapping[Path, bytes], fix: str = FIX) -> Iterator[dict[Path, Path]]:
    """Write each file under a temporary name next to its path, synchronised to the disk.

    Args:
        files: The contents, by path.
        fix: How the user can fix an error; the end of its message.

    Yields:
        The temporary file of each path, to be renamed by the caller. Those that were not renamed
        are removed at the end, also after an error or a signal.

    Raises:
        InputError: A file cannot be written.
    """
    # The names are random, so that no file of the user's is ever overwritten.
    mark = secrets.token_hex(6)
    ready: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            try:
                ready[path] = path.with_name(f".{path.name}.{mark}.part")
                with ready[path].open("xb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
            except (OSError, ValueError) as error:
                raise unwritable(path, error, fix) from error
        yield ready
    finally:
        for temporary in ready.values():
            with suppress(OSError, ValueError):
                temporary.unlink()


def unwritable(path: Path, error: Exception, fix: str = FIX) -> InputError:
    """Return the error for a file that cannot be written, with its fix."""
    return InputError(
        f"cannot write {escape(str(path))}: {getattr(error, 'strerror', None) or error}; {fix}"
    )
