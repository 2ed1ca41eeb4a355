"""The table of items as a file: written whole, or refused with the fix."""

from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.report import read_items, write_items
from tests.report.builders import items


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    for count in (12, 3):
        write_items(items(count), path)
        assert read_items(path) == tuple(items(count))
    assert [found.name for found in tmp_path.iterdir()] == ["items.parquet"]


def test_a_folder_that_cannot_be_written_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"use a folder that you can write to.*--phi3-report DIR"):
        write_items(items(1), tmp_path / "missing" / "items.parquet")
