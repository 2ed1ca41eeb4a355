"""Where an adapter is written: all of it or nothing, and never over something else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.training_config import OutputTable

_STATE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True)
class Places:
    """``staging`` becomes ``adapter`` when all is well; checkpoints lie beside, not inside.

    ``resume`` is the checkpoint to go on from.
    """

    adapter: Path
    staging: Path
    checkpoints: Path
    resume: Path | None


@contextmanager
def staged_output(output: OutputTable, resume: str | bool | None) -> Iterator[Places]:
    """Give a new folder beside the output; leaving without an error puts it in the output's place.

    Args:
        output: The wanted folder, and whether an adapter there may be replaced.
        resume: True for the newest checkpoint, or the folder of one; checkpoints of another run
            are in the way otherwise.

    Raises:
        InputError: The output is a file, holds something else, or cannot be written; or there is
            no checkpoint to resume from.
    """
    adapter = output.dir.absolute()
    checkpoints = adapter.parent / f"{adapter.name}-checkpoints"
    _check_adapter(adapter, output.overwrite)
    places = Places(
        adapter=adapter,
        staging=adapter.parent / f".{adapter.name}.{uuid4().hex[:8]}.part",
        checkpoints=checkpoints,
        resume=_resume_from(checkpoints, output.overwrite, resume),
    )
    try:
        try:
            # Made before training, so that a folder that cannot be written costs no training.
            places.staging.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"cannot write to {adapter.parent}: {error.strerror}; choose another output.dir"
            ) from error
        yield places
        _replace(places)
    finally:
        shutil.rmtree(places.staging, ignore_errors=True)


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints below a folder, oldest first.

    The trainer's state is written last: a checkpoint without it was cut short.
    """
    return [path for path in _checkpoints(folder) if (path / _STATE).is_file()]


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def _check_adapter(adapter: Path, overwrite: bool) -> None:
    if os.path.lexists(adapter) and not adapter.is_dir():
        what = "a file" if adapter.is_file() else "no folder"
        raise InputError(f"output.dir {adapter} is {what}; name a folder")
    if not adapter.is_dir() or not any(adapter.iterdir()):
        return
    if not overwrite:
        raise InputError(
            f"output.dir {adapter} already holds files; choose another folder, "
            "or set output.overwrite = true"
        )
    if not (adapter / "adapter_config.json").is_file():
        raise InputError(
            f"output.dir {adapter} holds files but no adapter, so it is not overwritten; "
            "choose another folder"
        )


def _resume_from(folder: Path, overwrite: bool, resume: str | bool | None) -> Path | None:
    if isinstance(resume, str):
        if not (Path(resume) / _STATE).is_file():
            raise InputError(
                f"resume_from_checkpoint {resume} is no checkpoint; name a checkpoint-N folder"
            )
        return Path(resume)
    if resume:
        whole = find_checkpoints(folder)
        if not whole:
            raise InputError(
                f"there is no checkpoint in {folder} to resume from; "
                "drop training.resume_from_checkpoint"
            )
        return whole[-1]
    earlier = _checkpoints(folder)
    if earlier and not overwrite:
        raise InputError(
            f"{folder} holds checkpoints of an earlier run; go on with "
            "training.resume_from_checkpoint = true, or set output.overwrite = true"
        )
    for path in earlier:
        shutil.rmtree(path)
    return None


def _replace(places: Places) -> None:
    """Put the finished folder in place; the old adapter goes only once the new one is whole."""
    if places.adapter.is_dir():
        old = places.staging.with_suffix(".old")
        places.adapter.replace(old)
        places.staging.replace(places.adapter)
        shutil.rmtree(old, ignore_errors=True)
    else:
        places.staging.replace(places.adapter)
