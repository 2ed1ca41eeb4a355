"""A file is replaced as a whole or not at all, and nothing temporary is left."""

import errno
import os
from pathlib import Path

import pytest

from phi3_lora_qa.atomic_write import staged, unwritable, write_whole
from phi3_lora_qa.errors import InputError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for data in (b"one", b"", b"two"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["a.bin"]


def test_an_error_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*a\.bin: No space left on device; try it"):
        write_whole(path, b"new", fix="try it elsewhere")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_staged_files_are_removed_unless_they_are_renamed(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    with staged({one: b"1", other: b"2"}) as ready:
        assert ready[other].read_bytes() == b"2"
        assert not one.exists()
        ready[one].replace(one)
    assert (one.read_bytes(), names(tmp_path)) == (b"1", ["one"])
    with pytest.raises(KeyboardInterrupt), staged({other: b"2"}):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["one"]


@pytest.mark.parametrize("path", ["", "missing/a", "folder", "a\0b", "a" * 300])
def test_a_path_that_is_not_a_file_is_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(InputError, match=r"^cannot write .*; use a folder that you can write to$"):
        write_whole(Path(path), b"x")
    assert names(tmp_path) == ["folder"]


def test_the_message_is_one_line_whatever_the_path_is() -> None:
    error = unwritable(Path("a\nb"), OSError(errno.EACCES, "Permission denied"))
    assert str(error) == (
        "cannot write a\\nb: Permission denied; use a folder that you can write to"
    )
