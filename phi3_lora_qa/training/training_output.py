"""The folders of a training run: the adapter, which appears complete or not at all; checkpoints."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.staged_output import staged_output
from phi3_lora_qa.training.training_config import OutputTable

_STATE = "trainer_state.json"


@dataclass(frozen=True, kw_only=True)
class TrainingFolders:
    """Where a run writes.

    Attributes:
        adapter: The finished adapter folder.
        staging: An empty folder that becomes ``adapter`` when training succeeds.
        checkpoints: Next to the adapter, not inside it.
        resume_from: The checkpoint to resume from, if any.
    """

    adapter: Path
    staging: Path
    checkpoints: Path
    resume_from: Path | None


@contextmanager
def training_folders(output: OutputTable, resume: str | bool | None) -> Iterator[TrainingFolders]:
    """Yield a run's folders; leaving without an error moves the new adapter into place.

    The staging folder is created before training, so that an output that cannot be written does
    not cost a training run.

    Args:
        output: The output folder, and whether an existing adapter may be replaced.
        resume: True for the newest checkpoint, or the folder of a checkpoint. Otherwise
            checkpoints of an earlier run are an error.

    Raises:
        InputError: The output is a file, contains something other than an adapter, or is not
            writable; or there is no checkpoint to resume from.
    """
    adapter = output.dir.absolute()
    if os.path.lexists(adapter) and not adapter.is_dir():
        found = "a file" if adapter.is_file() else "not a folder"
        raise InputError(f"output.dir {adapter} is {found}; choose a folder")
    checkpoints = adapter.parent / f"{adapter.name}-checkpoints"
    with staged_output(
        adapter,
        force=output.overwrite,
        how_to_replace="set output.overwrite = true",
        name="output.dir",
    ) as parent:
        staging = parent / adapter.name
        staging.mkdir()
        yield TrainingFolders(
            adapter=adapter,
            staging=staging,
            checkpoints=checkpoints,
            resume_from=_find_resume(checkpoints, output.overwrite, resume),
        )


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, oldest first.

    The trainer writes its state last, so a checkpoint without it is incomplete.
    """
    return [path for path in _checkpoints(folder) if (path / _STATE).is_file()]


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def _find_resume(folder: Path, overwrite: bool, resume: str | bool | None) -> Path | None:
    if isinstance(resume, str):
        if not (Path(resume) / _STATE).is_file():
            raise InputError(
                f"resume_from_checkpoint {resume} is not a checkpoint; name a checkpoint-N folder"
            )
        return Path(resume)
    if resume:
        complete = find_checkpoints(folder)
        if not complete:
            raise InputError(
                f"there is no checkpoint in {folder} to resume from; "
                "remove training.resume_from_checkpoint"
            )
        return complete[-1]
    earlier = _checkpoints(folder)
    if earlier and not overwrite:
        raise InputError(
            f"{folder} contains checkpoints of an earlier run; set "
            "training.resume_from_checkpoint = true to resume, or output.overwrite = true"
        )
    for path in earlier:
        shutil.rmtree(path)
    return None
