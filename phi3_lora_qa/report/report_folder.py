"""A report's folder: what the gate wrote there, and how that is replaced without losing a file.

``report.sha256``, which ``sha256sum -c`` understands, lists the files that were written. What it
does not list, or lists with other bytes, is the user's: it is never replaced or removed.
"""

import hashlib
import os
import re
import stat
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.atomic_write import staged, unwritable, write_whole

RECORD, ITEMS, SUMMARY, PAGE = "record.json", "items.parquet", "summary.md", "report.html"
NAMES = (ITEMS, PAGE, RECORD, SUMMARY)
"""The order in which a verdict appears: what is read and published first comes last."""

WRITTEN = "report.sha256"
_HEAD = "# phi3-lora-qa wrote these files, and replaces them only while they are as listed\n"
_LINE = re.compile(rf"([0-9a-f]{{64}})  ({'|'.join(map(re.escape, NAMES))})")
_LARGEST_LIST = 1 << 16
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_Digests = Mapping[str, Collection[str]]
"""The SHA-256 of each file; several while a report is being replaced."""


def require_own(directory: Path, names: Collection[str] = NAMES) -> None:
    """Make sure that no file of the user's would be lost to a report.

    Raises:
        InputError: A file of these names was not written by the gate, was changed since, or cannot
            be read.
    """
    written = _written(directory)
    for name in names:
        data = _content(directory / name)
        if data is not None and _digest(data) not in written.get(name, ()):
            raise _foreign(directory / name)


def put(directory: Path, files: Mapping[str, bytes], names: Sequence[str] = NAMES) -> None:
    """Replace files of a report, all of them or none.

    Args:
        directory: The report's folder; it is made where it is missing.
        files: The new files by name.
        names: Which files are replaced, in the order of their appearance; those that ``files``
            lacks are removed.

    Raises:
        InputError: The folder cannot be written, or a file there is not the gate's. What was there
            is then there still, unless a rename failed on the way.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(directory, error) from error
    with staged({directory / name: data for name, data in files.items()}) as ready:
        require_own(directory, names)
        before = _written(directory)
        after = {name: [_digest(files[name])] if name in files else [] for name in names}
        both = {name: {*before.get(name, ()), *after[name]} for name in names}
        # Old and new are listed until all is done: however this ends, no file is a stranger's.
        write_whole(directory / WRITTEN, _listing({**before, **both}))
        for name in names:
            try:
                if name in files:
                    ready[directory / name].replace(directory / name)
                else:
                    (directory / name).unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(directory / name, error) from error
        write_whole(directory / WRITTEN, _listing({**before, **after}))


def take_away(directory: Path) -> None:
    """Remove what the gate wrote, the summary first: where nothing can be written, that still can.

    Files of the user's stay, and so does what cannot be removed.
    """
    with suppress(OSError, InputError):
        written = _written(directory)
        for name in reversed(NAMES):
            data = _content(directory / name)
            if data is not None and _digest(data) in written.get(name, ()):
                (directory / name).unlink()


def _written(directory: Path) -> _Digests:
    """Read the list of what was written; a file of that name that is no such list is the user's."""
    data = _content(directory / WRITTEN, _LARGEST_LIST)
    if data is None:
        return {}
    text = data.decode("utf-8", "replace")
    lines = [_LINE.fullmatch(line) for line in text.removeprefix(_HEAD).splitlines()]
    if not text.startswith(_HEAD) or not all(lines):
        raise _foreign(directory / WRITTEN)
    found: dict[str, set[str]] = {}
    for line in filter(None, lines):
        found.setdefault(line[2], set()).add(line[1])
    return found


def _listing(digests: _Digests) -> bytes:
    lines = [f"{digest}  {name}\n" for name in NAMES for digest in sorted(digests.get(name, ()))]
    return (_HEAD + "".join(lines)).encode()


def _content(path: Path, cap: int | None = None) -> bytes | None:
    """Return what a file holds; None where there is none. No link, pipe or device is opened."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _foreign(path)
        with os.fdopen(os.open(path, _FLAGS), "rb") as stream:
            data = stream.read(-1 if cap is None else cap + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unwritable(path, error) from error
    if cap is not None and len(data) > cap:
        raise _foreign(path)
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _foreign(path: Path) -> InputError:
    return InputError(
        f"{escape(str(path))} was not written by the gate, or was changed since, so that it is "
        "not replaced by a report; move it away, or give another place (pytest: --phi3-report DIR, "
        "report: --output FILE)"
    )
