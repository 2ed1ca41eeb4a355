"""Where a conversion writes: all of it or nothing, and over something only when told to."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.errors import InputError, escape


@contextmanager
def staged(*targets: Path, force: bool = False) -> Iterator[Path]:
    """Give a new folder in which each target is written by its name, and then put in its place.

    Leaving with an error leaves everything as it was. Of folders only an empty one, or with
    ``force`` an adapter's, is ever replaced.

    Args:
        targets: Files or folders, all in one folder.
        force: Replace what is there.

    Raises:
        InputError: A target is there already, or nothing can be written there.
    """
    for target in targets:
        _require_free(target, force=force)
    first = targets[0].absolute()
    staging = first.parent / f".{first.name}.{uuid4().hex[:8]}.part"
    try:
        try:
            staging.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"cannot write to {escape(str(first.parent))}: {error.strerror}; name another place"
            ) from error
        yield staging
        for target in targets:
            if target.is_dir() and any(target.iterdir()):
                target.replace(staging / f"{target.name}.old")
            (staging / target.name).replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _require_free(target: Path, *, force: bool) -> None:
    shown = escape(str(target))
    if target.is_dir():
        if not any(target.iterdir()):
            return
        if force and not (target / CONFIG).is_file():
            raise InputError(f"{shown} holds files but no adapter; name another folder")
    elif not target.exists() and not target.is_symlink():
        return
    if not force:
        raise InputError(f"{shown} is there already; name another, or give --force to replace it")
