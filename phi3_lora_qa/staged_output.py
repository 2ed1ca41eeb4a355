"""Write folders and files so that they appear complete or not at all.

Everything is written to a staging folder next to the targets and renamed into place at the end.
Single files in the place of older ones are written by ``atomic_write``.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from phi3_lora_qa.errors import InputError, escape

MARKER = "adapter_config.json"
"""A folder that contains this file is an adapter, and may be replaced."""


@contextmanager
def staged_output(
    *targets: Path,
    force: bool = False,
    how_to_replace: str = "pass --force",
    name: str = "",
) -> Iterator[Path]:
    """Yield a new folder; what is written there under each target's name becomes the target.

    An error inside the block leaves everything as it was. A folder is replaced only if it is empty
    or, with ``force``, if it contains an adapter.

    Args:
        targets: Files or folders, all in one parent folder.
        force: Replace a target that already exists.
        how_to_replace: What the user must do to replace an existing target, for the message.
        name: The setting that named the target, such as ``output.dir``, for the message.

    Yields:
        The staging folder. It is removed at the end, together with what was replaced.

    Raises:
        InputError: A target already exists, or the parent folder is not writable.
    """
    for target in targets:
        _require_replaceable(target, force, how_to_replace, name)
    first = targets[0].absolute()
    staging = first.parent / f".{first.name}.{uuid4().hex[:8]}.part"
    try:
        try:
            staging.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"cannot write to {escape(str(first.parent))}: {error.strerror}; "
                f"choose another {name or 'path'}"
            ) from error
        yield staging
        for target in targets:
            _move_into_place(staging / target.name, target, staging / f"{target.name}.old")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _require_replaceable(target: Path, force: bool, how_to_replace: str, name: str) -> None:
    shown = f"{name} {escape(str(target))}".lstrip()
    if target.is_dir():
        if not any(target.iterdir()):
            return
        if force and not (target / MARKER).is_file():
            raise InputError(
                f"{shown} contains files but no adapter, so it is not replaced; "
                "choose another folder"
            )
        if not force:
            raise InputError(
                f"{shown} already contains files; choose another folder, or {how_to_replace}"
            )
    elif not force and (target.exists() or target.is_symlink()):
        raise InputError(f"{shown} already exists; choose another path, or {how_to_replace}")


def _move_into_place(made: Path, target: Path, aside: Path) -> None:
    """Rename the finished file or folder; the old folder stays until the new one is in place."""
    if not target.is_dir() or not (made.is_dir() or any(target.iterdir())):
        made.replace(target)
        return
    target.replace(aside)
    try:
        made.replace(target)
    except BaseException:
        aside.replace(target)
        raise
