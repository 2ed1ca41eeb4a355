import json
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.record import load_record
from phi3_lora_qa.report import read_items, render_again, write_report
from tests.report.builders import failing, incomplete, items, passing
from tests.report.hostile import hostile_items, hostile_record

FILES = {"record.json", "items.parquet", "summary.md", "report.html", "report.sha256"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_report_has_four_files_and_their_list(tmp_path: Path) -> None:
    page = write_report(failing(), items(5), tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    assert names(page.parent) == FILES
    assert load_record(page.parent / "record.json").verdict == "FAIL"
    assert read_items(page.parent / "items.parquet") == tuple(items(5))
    assert (page.parent / "summary.md").read_text(encoding="utf-8").startswith("## ✕ FAIL")


def test_the_page_rendered_again_from_the_files_has_the_same_bytes(
    tmp_path: Path,
) -> None:
    page = write_report(hostile_record(), hostile_items(), tmp_path)
    render_again(tmp_path / "record.json", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_record_names_its_items_only_if_there_are_some(tmp_path: Path) -> None:
    write_report(passing(items=""), items(2), tmp_path / "some")
    write_report(passing(items="x"), [], tmp_path / "none")
    assert load_record(tmp_path / "some" / "record.json").items == "items.parquet"
    assert load_record(tmp_path / "none" / "record.json").items == ""


def test_other_files_of_the_folder_are_unchanged(tmp_path: Path) -> None:
    mine = {"notes.txt": "mine", "record.part": "mine", "report.html.part": "mine"}
    for name, content in mine.items():
        (tmp_path / name).write_text(content)
    write_report(passing(), items(2), tmp_path)
    write_report(passing(), items(2), tmp_path)
    assert names(tmp_path) == FILES | set(mine)
    assert all((tmp_path / name).read_text() == content for name, content in mine.items())


def test_old_items_are_not_shown_in_the_report_of_a_new_run(tmp_path: Path) -> None:
    write_report(passing(), items(2), tmp_path)
    page = write_report(incomplete(), [], tmp_path)
    assert "target-000" not in page.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_created_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"use a folder that you can write to.*FILE\)$"):
            write_report(passing(), [], place)


def test_a_file_that_cannot_be_replaced_is_refused_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match=r"report\.html"):
        write_report(passing(), items(2), tmp_path)
    assert not [name for name in names(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize("name", ["../items.parquet", "/etc/passwd", "a/b.parquet", ".."])
def test_items_outside_the_records_folder_are_not_read(tmp_path: Path, name: str) -> None:
    write_report(passing(), items(2), tmp_path)
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    (tmp_path / "record.json").write_text(json.dumps(record | {"items": name}), encoding="utf-8")
    with pytest.raises(InputError, match=r'such as "items\.parquet"$'):
        render_again(tmp_path / "record.json", tmp_path / "again.html")


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": {"seed": {"value": 1, "source": 5}}},
        {"adapter": {"path": "", "name": "", "sha256": [], "config": 3, "manifest": None}},
        {"checks": [{"id": 1, "stage": 2, "outcome": "passed", "message": 3}]},
        {"environment": "none"},
    ],
)
def test_a_record_of_wrong_types_is_refused_and_no_page_is_written(
    tmp_path: Path, damage: dict[str, object]
) -> None:
    write_report(passing(), [], tmp_path)
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    (tmp_path / "record.json").write_text(json.dumps(record | damage), encoding="utf-8")
    with pytest.raises(InputError, match="run the gate again"):
        render_again(tmp_path / "record.json", tmp_path / "again.html")
    assert not (tmp_path / "again.html").exists()
