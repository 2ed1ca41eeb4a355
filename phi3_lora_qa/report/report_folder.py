"""A report's folder: which files the gate wrote there, and how they are replaced safely.

``report.sha256``, in the format of ``sha256sum``, lists the files that the gate wrote. A file that
is not in the list, or has a different hash, is the user's: it is never replaced or removed.
"""

import hashlib
import os
import re
import stat
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from phi3_lora_qa.atomic_write import staged, unwritable, write_whole
from phi3_lora_qa.errors import InputError, escape

RECORD, ITEMS, SUMMARY, PAGE = "record.json", "items.parquet", "summary.md", "report.html"
NAMES = (ITEMS, PAGE, RECORD, SUMMARY)
"""The order in which the files are written: those that are read and published first come last."""

WRITTEN = "report.sha256"
FIX = "use a folder that you can write to (pytest: --phi3-report DIR, report: --output FILE)"
_HEAD = "# phi3-lora-qa wrote these files, and replaces them only while they are as listed\n"
_LINE = re.compile(rf"([0-9a-f]{{64}})  ({'|'.join(map(re.escape, NAMES))})")
_LARGEST_LIST = 1 << 16
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_Digests = Mapping[str, Collection[str]]
"""The SHA-256 of each file; several while a report is being replaced."""


def require_own(directory: Path, names: Collection[str] = NAMES) -> None:
    """Check that a report would not replace a file of the user's.

    Raises:
        InputError: A file with one of these names was not written by the gate, was changed since,
            or cannot be read.
    """
    written = _written(directory)
    for name in names:
        data = _content(directory / name)
        if data is not None and _digest(data) not in written.get(name, ()):
            raise _foreign(directory / name)


def replace_files(
    directory: Path, files: Mapping[str, bytes], names: Sequence[str] = NAMES
) -> None:
    """Replace files of a report, all of them or none.

    Args:
        directory: The report's folder; it is created if missing.
        files: The new files by name.
        names: The files to replace, in the order of their appearance; those that ``files`` lacks
            are removed.

    Raises:
        InputError: The folder cannot be written, or a file there is not the gate's. The folder is
            then unchanged, unless a rename failed halfway.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(directory, error, FIX) from error
    with staged({directory / name: data for name, data in files.items()}, FIX) as ready:
        require_own(directory, names)
        before = _written(directory)
        after = {name: [_digest(files[name])] if name in files else [] for name in names}
        both = {name: {*before.get(name, ()), *after[name]} for name in names}
        # Old and new hashes are listed until all is done, so that an interrupted replacement
        # leaves no file that looks like the user's.
        write_whole(directory / WRITTEN, _listing({**before, **both}), FIX)
        for name in names:
            try:
                if name in files:
                    ready[directory / name].replace(directory / name)
                else:
                    (directory / name).unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(directory / name, error, FIX) from error
        write_whole(directory / WRITTEN, _listing({**before, **after}), FIX)


def remove_report(directory: Path) -> None:
    """Remove the files that the gate wrote, the summary first; this works on a full disk, too.

    The user's files are kept, and so is a file that cannot be removed.
    """
    with suppress(OSError, InputError):
        written = _written(directory)
        for name in reversed(NAMES):
            data = _content(directory / name)
            if data is not None and _digest(data) in written.get(name, ()):
                (directory / name).unlink()


def _written(directory: Path) -> _Digests:
    """Read the list of files; a file of that name with any other content is the user's."""
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
    """Return a file's content; None if there is no file. No link, pipe or device is opened."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _foreign(path)
        with os.fdopen(os.open(path, _FLAGS), "rb") as stream:
            data = stream.read(-1 if cap is None else cap + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unwritable(path, error, FIX) from error
    if cap is not None and len(data) > cap:
        raise _foreign(path)
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _foreign(path: Path) -> InputError:
    return InputError(
        f"a report does not replace {escape(str(path))}: the gate did not write it, or it was "
        "changed since; move it, or use a different path (pytest: --phi3-report DIR, report: "
        "--output FILE)"
    )
