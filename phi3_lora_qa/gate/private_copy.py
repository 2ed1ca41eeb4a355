"""The private folder of a run, with the copies of the adapters and the journal.

It is removed when the run ends. The folder of a killed process is removed by the next run, which
recognises it by its lock, which the system released with the process.
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
except ImportError:  # Windows: the folder of a killed process stays
    fcntl = None  # type: ignore[assignment]

PREFIX = "phi3-lora-qa-run-"
_LOCK = "in-use"
_OWNER = f"phi3-lora-qa on {platform.node()}".encode()


@contextmanager
def private_copies(jobs: Sequence[AdapterJob]) -> Iterator[Path]:
    """Copy the adapters, and the jobs for other processes, to a private folder of this run.

    Raises:
        InputError: The folder cannot be written, or has too little space.
    """
    _remove_orphans()
    # The name is random, and known before the folder exists: a signal may arrive at any time.
    name = f"{PREFIX}{secrets.token_hex(8)}"
    folder, lock = None, None
    try:
        try:
            folder = Path(tempfile.gettempdir()) / name
            folder.mkdir(mode=0o700)
            lock = _locked(folder)
            snapshot(jobs, folder)
            hand_over(jobs, folder)
        except OSError as error:
            place = folder or os.environ.get("TMPDIR") or "the folder for temporary files"
            raise InputError(
                f"cannot copy the adapter to {escape(str(place))}: {error.strerror or error}; "
                "free some space there, or set TMPDIR to a writable folder"
            ) from error
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock a file in the folder until this process ends."""
    if fcntl is None:
        return None
    # Locked before it gets its name, so that no other process finds it unlocked.
    part = folder / f"{_LOCK}.part"
    lock = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(lock, _OWNER)
        part.rename(folder / _LOCK)
    except OSError:  # a file system without locks: no other run removes the folder
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
