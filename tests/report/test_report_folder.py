"""Files that the gate did not write are neither replaced nor removed; a report is complete."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.record import load_record
from phi3_lora_qa.report import replace_report, write_report
from phi3_lora_qa.report.report_folder import NAMES, WRITTEN, remove_report, replace_files
from tests.report.builders import failing, incomplete, items, passing

Damage = Callable[[Path], object]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, Damage] = {
    "a note at its end": lambda path: path.open("a").write("\nmine"),
    "its own content": lambda path: path.write_text("mine"),
    "nothing": lambda path: path.write_text(""),
    "a link": link,
    "a pipe": pipe,
    "a folder": folder,
}


@pytest.mark.parametrize("name", [*NAMES, WRITTEN])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_the_user_changed_is_kept_and_named(
    name: str, change: str, tmp_path: Path
) -> None:
    write_report(passing(), items(2), tmp_path)
    CHANGES[change](tmp_path / name)
    before, kind = contents(tmp_path), (tmp_path / name).lstat().st_mode
    for write in (
        lambda: write_report(failing(), [], tmp_path),
        lambda: replace_files(tmp_path, {}),
    ):
        with pytest.raises(
            InputError, match=rf"{name}: the gate did not write it, or it was chang"
        ):
            write()
    assert contents(tmp_path) == before
    assert (tmp_path / name).lstat().st_mode == kind


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_user_is_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=name):
        write_report(passing(), items(2), tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_file_that_the_user_adds_to_a_report_later_is_kept(tmp_path: Path) -> None:
    write_report(incomplete(), [], tmp_path)
    (tmp_path / "items.parquet").write_text("mine")
    with pytest.raises(InputError, match=r"items\.parquet"):
        write_report(passing(), items(2), tmp_path)
    assert (tmp_path / "items.parquet").read_text() == "mine"


def test_no_file_is_reached_through_a_link_in_place_of_the_list(tmp_path: Path) -> None:
    write_report(passing(), items(2), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / WRITTEN).symlink_to(tmp_path / "a" / WRITTEN)
    before = contents(tmp_path / "a")
    with pytest.raises(InputError, match=WRITTEN):
        write_report(failing(), [], tmp_path / "b")
    assert contents(tmp_path / "a") == before


def test_a_report_replaces_all_files_of_the_old_one(tmp_path: Path) -> None:
    write_report(passing(), items(2), tmp_path)
    replace_report(incomplete(), tmp_path)
    assert {*contents(tmp_path)} == {"record.json", "report.html", "summary.md", WRITTEN}
    write_report(failing(), items(2), tmp_path)
    assert {*contents(tmp_path)} == {*NAMES, WRITTEN}


def test_sha256sum_reads_the_list(tmp_path: Path) -> None:
    write_report(passing(), items(2), tmp_path)
    done = subprocess.run(
        ["sha256sum", "--check", WRITTEN],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(NAMES)


@pytest.mark.parametrize("failing_at", range(8))
def test_wherever_replacing_is_interrupted_the_gate_can_replace_the_files(
    failing_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that fails is like a kill: nothing that runs after it matters here."""
    write_report(failing(), items(2), tmp_path)
    real, calls = Path.replace, iter(range(100))

    def replace(path: Path, target: Path) -> Path:
        if next(calls) == failing_at:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        ended = False
        try:
            write_report(passing(), items(3), tmp_path)
        except InputError:
            ended = True
    assert ended is (failing_at < 6)  # the list, four files, the list
    assert not [name for name in contents(tmp_path) if name.endswith(".part")]
    write_report(passing(), items(3), tmp_path)
    assert load_record(tmp_path / "record.json").verdict == "PASS"


def test_the_summary_is_the_last_to_say_pass_and_the_first_to_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        seen.append(target.name)
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_report(passing(), items(2), tmp_path)
    assert [name for name in seen if name != WRITTEN][-1] == "summary.md"
    seen.clear()
    replace_report(incomplete(), tmp_path)
    assert next(name for name in seen if name != WRITTEN) == "summary.md"


FULL = """
import resource, sys
from pathlib import Path
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.report import write_report
from tests.report.builders import items, passing
folder = Path(sys.argv[1])
pages = items(400)
import pandas, pyarrow.parquet, jinja2  # an import must not write anything
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write_report(passing(), pages, folder)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 1_000, 20_000])
def test_a_full_disk_leaves_the_old_files_and_nothing_else(limit: int, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    replace_report(incomplete(), folder)
    before = contents(folder)
    done = subprocess.run(
        [sys.executable, "-B", "-c", FULL, str(folder), str(limit)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "File too large" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1
    assert contents(folder) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, if this user can mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this user cannot mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_without_space_leaves_the_old_files(small_disk: Path) -> None:
    replace_files(small_disk, {"summary.md": b"none"})
    with pytest.raises(InputError, match="No space left on device"):
        write_report(passing(), items(400), small_disk)
    assert {*contents(small_disk)} == {"summary.md", WRITTEN}
    assert (small_disk / "summary.md").read_text() == "none"


def test_the_files_of_the_gate_are_removed_without_any_space(
    small_disk: Path,
) -> None:
    """They may say PASS about a different adapter; removing them takes no space."""
    replace_files(small_disk, {"summary.md": b"PASS", "record.json": b"{}"})
    (small_disk / "notes.txt").write_bytes(b"mine")
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        for _ in range(200):
            filler.write(bytes(1024))
    remove_report(small_disk)
    assert {*contents(small_disk)} == {"notes.txt", "filler", WRITTEN}
