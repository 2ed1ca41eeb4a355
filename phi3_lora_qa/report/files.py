"""Writing a file so that a reader finds it whole or not at all."""

import secrets
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it into place.

    Raises:
        InputError: The folder cannot be written, or ``path`` is a folder.
    """
    # A name that nobody else can have, so that no file of the user is ever overwritten.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """Say that a report file cannot be written, and how to mend it."""
    return InputError(
        f"cannot write {escape(str(path))}: {error.strerror or error}; "
        "give a folder that you may write to (pytest: --phi3-report DIR, report: --output FILE)"
    )
