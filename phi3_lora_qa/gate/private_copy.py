"""The private folder of a run, with the copies of the adapters and the journal.

It goes when the run ends. What a process that was killed left behind goes with the next run, which
tells by a lock that the system releases with the process.
"""

import os
import platform
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.gate.prepare import AdapterJob, hand_over, snapshot

try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays there
    fcntl = None  # type: ignore[assignment]

PREFIX = "phi3-lora-qa-run-"
_LOCK = "in-use"
_OWNER = f"phi3-lora-qa on {platform.node()}".encode()


@contextmanager
def private_copies(targets: Sequence[AdapterJob]) -> Iterator[Path]:
    """Copy the adapters, and what other processes must know, to a folder of this run alone.

    Raises:
        InputError: There is no room for it.
    """
    _remove_orphans()
    # A name that nobody can know, and known here before the folder is: a signal may come any time.
    name = f"{PREFIX}{secrets.token_hex(8)}"
    folder, lock = None, None
    try:
        try:
            folder = Path(tempfile.gettempdir()) / name
            folder.mkdir(mode=0o700)
            lock = _locked(folder)
            snapshot(targets, folder)
            hand_over(targets, folder)
        except OSError as error:
            place = folder or os.environ.get("TMPDIR") or "the folder for temporary files"
            raise InputError(
                f"cannot copy the adapter to {escape(str(place))}: {error.strerror or error}; "
                "free some space there, or set TMPDIR to a folder that can be written"
            ) from error
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a file in the folder for as long as this process lives."""
    if fcntl is None:
        return None
    # Locked first and named then, so that nobody finds it unlocked.
    part = folder / f"{_LOCK}.part"
    lock = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(lock, _OWNER)
        part.rename(folder / _LOCK)
    except OSError:  # a file system without locks: nobody can tell, so nobody removes it
        os.close(lock)
        part.unlink(missing_ok=True)
        return None
    return lock


def _remove_orphans() -> None:
    if fcntl is None:
        return
    with suppress(OSError):
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError):
                _remove_orphan(folder)


def _remove_orphan(folder: Path) -> None:
    """Remove a private folder of this user and machine that no process has locked."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.read(lock, 1 << 10) == _OWNER:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
