import os
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.training_config import OutputTable
from phi3_lora_qa.training.training_output import find_checkpoints, training_folders


def adapter(folder: Path, text: str = "old") -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return folder


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text("{}", encoding="utf-8")
    return path


def write(output: OutputTable, resume: str | bool | None = None) -> None:
    with training_folders(output, resume) as folders:
        (folders.staging / "adapter_config.json").write_text("new", encoding="utf-8")
        assert not (output.dir / "adapter_config.json").exists() or output.overwrite


def test_the_finished_folder_is_moved_into_place_and_nothing_else_remains(tmp_path: Path) -> None:
    write(OutputTable(dir=tmp_path / "deep" / "adapter"))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["adapter"]
    assert (tmp_path / "deep" / "adapter" / "adapter_config.json").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_during_training_leaves_no_partial_adapter(
    tmp_path: Path, error: type[BaseException]
) -> None:
    old = adapter(tmp_path / "adapter")

    def fail_during_training() -> None:
        with training_folders(OutputTable(dir=old, overwrite=True), None) as folders:
            (folders.staging / "half").write_text("x", encoding="utf-8")
            raise error

    with pytest.raises(error):
        fail_during_training()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert (old / "adapter_config.json").read_text() == "old"


def test_an_adapter_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    old = adapter(tmp_path / "adapter")
    with pytest.raises(InputError, match="already contains files"):
        write(OutputTable(dir=old))
    write(OutputTable(dir=old, overwrite=True))
    assert (old / "adapter_config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    write(OutputTable(dir=tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_a_folder_with_other_files_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter-1.md").write_text("irreplaceable", encoding="utf-8")
    with pytest.raises(InputError, match="contains files but no adapter"):
        write(OutputTable(dir=folder, overwrite=True))
    assert (folder / "chapter-1.md").read_text() == "irreplaceable"


def test_an_output_that_is_a_file_or_below_one_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        write(OutputTable(dir=tmp_path / "file"))
    with pytest.raises(InputError, match="cannot write to"):
        write(OutputTable(dir=tmp_path / "file" / "adapter"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match="is not a folder"):
            write(OutputTable(dir=tmp_path / name))


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in find_checkpoints(tmp_path)] == [
        "checkpoint-3",
        "checkpoint-20",
        "checkpoint-100",
    ]


def test_checkpoints_of_an_earlier_run_are_resumed_or_replaced(
    tmp_path: Path,
) -> None:
    output = OutputTable(dir=tmp_path / "adapter")
    path = checkpoint(tmp_path / "adapter-checkpoints", 2)
    with pytest.raises(InputError, match="contains checkpoints of an earlier run"):
        write(output)
    write(output, resume=True)
    assert path.is_dir()
    write(OutputTable(dir=tmp_path / "adapter", overwrite=True))
    assert not path.exists()


def test_resuming_starts_from_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    for step in (2, 10, 12):
        last = checkpoint(tmp_path / "adapter-checkpoints", step)
    (last / "trainer_state.json").unlink()
    with training_folders(OutputTable(dir=tmp_path / "adapter"), True) as folders:
        assert folders.resume_from == tmp_path / "adapter-checkpoints" / "checkpoint-10"


def test_resuming_needs_a_checkpoint(tmp_path: Path) -> None:
    output = OutputTable(dir=tmp_path / "adapter")
    with pytest.raises(InputError, match="no checkpoint in"):
        write(output, resume=True)
    with pytest.raises(InputError, match="is not a checkpoint"):
        write(output, resume=str(tmp_path))
    write(output, resume=str(checkpoint(tmp_path, 2)))
