"""The four files of a report in one folder, each of them whole or absent."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from phi3_lora_qa.data.item_table import read_items
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.record import ItemRow, RunRecord, read_record
from phi3_lora_qa.report.files import unwritable, write_whole
from phi3_lora_qa.report.html import render_html
from phi3_lora_qa.report.items import write_items
from phi3_lora_qa.report.markdown import render_markdown

RECORD, ITEMS, SUMMARY, PAGE = "record.json", "items.parquet", "summary.md", "report.html"
_FILE_NAME = re.compile(r"(\w[\w.-]*)?")


def write_report(record: RunRecord, rows: Sequence[ItemRow], directory: Path) -> Path:
    """Write record.json, items.parquet, summary.md and report.html, and return the page's path.

    The record is made to name its items. The page is rendered from what was written, so that
    rendering it again from the files gives the same bytes.

    Raises:
        InputError: The folder cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(directory, error) from error
    if rows:
        write_items(rows, directory / ITEMS)
    named = replace(record, items=ITEMS if rows else "")
    # Half a surrogate pair in a name becomes the escape that JSON has for it.
    text = (named.to_json() + "\n").encode("utf-8", "backslashreplace")
    write_whole(directory / RECORD, text)
    render_again(directory / RECORD, directory / PAGE)
    written = read_record(directory / RECORD)
    write_whole(directory / SUMMARY, render_markdown(written).encode())
    return directory / PAGE


def remove_report(directory: Path) -> None:
    """Remove the files of an earlier report, where there is one.

    Raises:
        InputError: One of them cannot be removed.
    """
    if not (directory / RECORD).is_file():
        return
    for name in (RECORD, ITEMS, SUMMARY, PAGE):
        try:
            (directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(directory / name, error) from error


def render_again(record_path: Path, output: Path) -> None:
    """Render the page from a record.json and the items beside it, where they are.

    Raises:
        InputError: The record or its items cannot be read, or ``output`` cannot be written.
    """
    record = read_record(record_path)
    name = record.items
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        # Read from the record's own folder only: a record may come from anywhere.
        raise InputError(
            f"{escape(str(record_path))} names the items {escape(repr(name), 80)}; "
            f'set "items" to a file name without a folder, such as "{ITEMS}"'
        )
    beside = record_path.parent / name
    rows = read_items(beside) if name and beside.is_file() else ()
    try:
        page = render_html(record, rows)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise InputError(
            f"{escape(str(record_path))} is damaged ({escape(str(error), 200)}); "
            "gate the adapter again to write a new record"
        ) from error
    write_whole(output, page.encode())
