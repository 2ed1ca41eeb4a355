"""The private folder is removed when its run ends, or by the next run if that was killed."""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.gate.prepare import AdapterJob, handed_over
from phi3_lora_qa.gate.private_copy import PREFIX, private_copies

KILLED = """
import os, signal
from phi3_lora_qa.gate.private_copy import private_copies
with private_copies([]):
    {during}
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def killed(during: str = "pass") -> None:
    script = [sys.executable, "-c", KILLED.format(during=during)]
    assert subprocess.run(script, check=False).returncode == -9


def test_it_exists_during_the_run_and_for_its_owner_only(temporary: Path) -> None:
    with private_copies([]) as folder:
        assert handed_over(folder) == ()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(temporary.iterdir())


def test_an_error_removes_it(temporary: Path) -> None:
    with pytest.raises(KeyboardInterrupt), private_copies([]):
        raise KeyboardInterrupt
    assert not list(temporary.iterdir())


def test_the_next_run_removes_the_folder_of_a_killed_one(temporary: Path) -> None:
    killed()
    assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
    with private_copies([]) as folder:
        assert list(temporary.iterdir()) == [folder]


def test_the_folder_of_a_live_run_stays(temporary: Path) -> None:
    with private_copies([]) as folder:
        killed()
        with private_copies([]) as other:
            assert {*temporary.iterdir()} == {folder, other}


def test_other_folders_are_not_removed(temporary: Path) -> None:
    kept = [temporary / f"{PREFIX}{name}" for name in ("mine", "elsewhere", "empty")]
    for folder, owner in zip(kept, ("", "another machine", None), strict=True):
        folder.mkdir()
        if owner is not None:
            (folder / "in-use").write_text(owner)
    (temporary / "target").mkdir()
    (temporary / "target" / "in-use").write_text(f"phi3-lora-qa on {platform.node()}")
    (temporary / f"{PREFIX}link").symlink_to(temporary / "target")
    os.mkfifo(kept[2] / "in-use")
    before = {*temporary.iterdir()}
    with private_copies([]):
        pass
    assert {*temporary.iterdir()} == before
    assert (temporary / "target" / "in-use").is_file()


def test_a_full_disk_is_bad_input_and_leaves_nothing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(targets: tuple[AdapterJob, ...], folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("phi3_lora_qa.gate.private_copy.hand_over", full)
    with (
        pytest.raises(InputError, match=r"No space left on device; .* set TMPDIR"),
        private_copies([]),
    ):
        raise AssertionError
    assert not list(temporary.iterdir())
