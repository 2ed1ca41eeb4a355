"""Writing files so that a reader finds them whole or not at all."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it into place.

    Raises:
        InputError: The folder cannot be written, or ``path`` is a folder.
    """
    with staged({path: data}) as ready:
        try:
            ready[path].replace(path)
        except OSError as error:
            raise unwritable(path, error) from error


@contextmanager
def staged(files: Mapping[Path, bytes]) -> Iterator[dict[Path, Path]]:
    """Write each file under another name beside its place, on the disk and not just on its way.

    Args:
        files: What is to be written, by its place.

    Yields:
        The temporary file of each place, to be renamed. What was not renamed is removed in the end,
        however that comes: by a full disk, a crash or a signal.

    Raises:
        InputError: A file cannot be written.
    """
    # Names that nobody else can have, so that no file of the user's is ever overwritten.
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
                raise unwritable(path, error) from error
        yield ready
    finally:
        for temporary in ready.values():
            with suppress(OSError, ValueError):
                temporary.unlink()


def unwritable(path: Path, error: Exception) -> InputError:
    """Say that a report file cannot be written, and how to mend it."""
    return InputError(
        f"cannot write {escape(str(path))}: {getattr(error, 'strerror', None) or error}; "
        "give a folder that you may write to (pytest: --phi3-report DIR, report: --output FILE)"
    )
