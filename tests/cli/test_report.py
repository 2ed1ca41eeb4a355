import os
import subprocess
import sys
from pathlib import Path

import pytest

from phi3_lora_qa.cli.report import report_command
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.report import write_report
from phi3_lora_qa.report.report_folder import NAMES, WRITTEN, require_own
from tests.report.builders import failing, items


def test_the_page_is_rendered_again_next_to_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_report(failing(), items(3), tmp_path)
    before = page.read_bytes()
    page.unlink()
    report_command(tmp_path / "record.json", None)
    assert page.read_bytes() == before
    assert capsys.readouterr().out == f"report: {page}\n"


def test_a_folder_is_taken_for_its_record_and_the_page_can_be_written_elsewhere(
    tmp_path: Path,
) -> None:
    page = write_report(failing(), items(3), tmp_path)
    other = tmp_path / "other.html"
    assert report_command(tmp_path, other) == other
    assert other.read_bytes() == page.read_bytes()


def test_a_record_without_its_items_is_rendered(tmp_path: Path) -> None:
    write_report(failing(), items(3), tmp_path)
    (tmp_path / "items.parquet").unlink()
    page = report_command(tmp_path)
    assert "was not next to the record" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 2}']
)
def test_a_file_that_is_not_a_record_is_refused_with_the_fix(
    tmp_path: Path, content: str | None
) -> None:
    record = tmp_path / "record.json"
    if content is not None:
        record.write_text(content)
    with pytest.raises(
        InputError, match=r"run the gate again.*: pytest --phi3-only|pass a record\.json"
    ):
        report_command(record)
    assert not (tmp_path / "report.html").exists()


def test_a_page_can_be_replaced_repeatedly_and_stays_the_gates_own(tmp_path: Path) -> None:
    page = write_report(failing(), items(3), tmp_path)
    for output in (None, page, tmp_path / "." / "report.html", tmp_path / "other.html"):
        report_command(tmp_path, output)
        report_command(tmp_path, output)
    require_own(tmp_path)
    write_report(failing(), items(3), tmp_path)


def test_a_page_that_the_user_changed_is_not_replaced(tmp_path: Path) -> None:
    page = write_report(failing(), items(3), tmp_path)
    page.write_text("<p>mine</p>")
    for output in (None, page):
        with pytest.raises(InputError, match="was changed since"):
            report_command(tmp_path, output)
    assert page.read_text() == "<p>mine</p>"


@pytest.mark.parametrize("name", ["record.json", "notes.txt", "pipe", "folder", "link", "nowhere"])
def test_a_page_replaces_only_a_page(tmp_path: Path, name: str) -> None:
    write_report(failing(), items(3), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "nowhere").symlink_to(tmp_path / "new.html")
    before = {path.name: path.lstat() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="use a different name with --output FILE"):
        report_command(tmp_path, tmp_path / name)
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == {
        found: status.st_ino for found, status in before.items()
    }
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "output", ["", ".", "/dev/full", "/dev/null", "/dev/stdout", "\0", "a" * 300]
)
def test_an_output_that_is_not_a_file_is_refused_in_one_line(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(failing(), items(3), tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"use a different name|use a folder"):
        report_command(tmp_path, Path(output))
    assert {path.name for path in tmp_path.iterdir()} == {*NAMES, WRITTEN}


def test_the_command_imports_nothing_heavy_before_it_is_called() -> None:
    script = "import sys, phi3_lora_qa.cli.report; print({'jinja2', 'pandas'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
