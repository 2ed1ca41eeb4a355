"""Writes the report's files from a record, and renders the page again from them."""

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from phi3_lora_qa.atomic_write import unwritable, write_whole
from phi3_lora_qa.data.item_table import items_as_parquet, read_items
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.reading import open_regular
from phi3_lora_qa.record import ItemRow, RunRecord, load_record, parse_record
from phi3_lora_qa.report.html import render_html
from phi3_lora_qa.report.markdown import render_markdown
from phi3_lora_qa.report.report_folder import (
    FIX,
    ITEMS,
    NAMES,
    PAGE,
    RECORD,
    SUMMARY,
    replace_files,
)
from phi3_lora_qa.settings import real

_FILE_NAME = re.compile(r"(\w[\w.-]*)?")
_PAGE_MARK = b"phi3-lora-qa</title>"
_HEAD_BYTES = 1 << 14


def write_report(record: RunRecord, rows: Sequence[ItemRow], directory: Path) -> Path:
    """Write record.json, items.parquet, summary.md and report.html, and return the page's path.

    Raises:
        InputError: The folder cannot be created or written, or a file there was not written by the
            gate; the folder is then unchanged.
    """
    replace_files(directory, _files(record, rows))
    return directory / PAGE


def replace_report(record: RunRecord, directory: Path) -> None:
    """Replace an earlier report with one without a verdict, the summary first.

    Raises:
        InputError: As `write_report`.
    """
    replace_files(directory, _files(record, ()), tuple(reversed(NAMES)))


def _files(record: RunRecord, rows: Sequence[ItemRow]) -> Mapping[str, bytes]:
    """Return the files of a report; the record names the file of its items.

    The page is rendered from the files' content, so rendering it again gives the same bytes.
    """
    items = items_as_parquet(rows) if rows else b""
    named = replace(record, items=ITEMS if rows else "")
    # A lone surrogate in a name becomes JSON's escape for it.
    text = (named.to_json() + "\n").encode("utf-8", "backslashreplace")
    read = parse_record(text.decode(), RECORD)
    files = {
        RECORD: text,
        PAGE: _page(read, read_items(BytesIO(items)) if rows else (), RECORD),
        SUMMARY: render_markdown(read).encode(),
    }
    return files | ({ITEMS: items} if rows else {})


def render_again(record_path: Path, output: Path) -> None:
    """Render the page from a record.json and, if they exist, the items next to it.

    Raises:
        InputError: The record or its items cannot be read, or ``output`` cannot be written.
    """
    record = load_record(record_path)
    name = record.items
    if not _FILE_NAME.fullmatch(name):
        # Items are read from the record's own folder only: a record may come from anywhere.
        raise InputError(
            f"{escape(str(record_path))} has an invalid items file: {escape(repr(name), 80)}; "
            f'set "items" to a file name without a folder, such as "{ITEMS}"'
        )
    items = record_path.parent / name
    rows = read_items(items) if name and items.is_file() else ()
    page = _page(record, rows, str(record_path))
    if output.name == PAGE and real(output.parent) == real(record_path.parent):
        replace_files(record_path.parent, {PAGE: page}, (PAGE,))
    else:
        _require_page(output)
        write_whole(output, page, FIX)


def _page(record: RunRecord, rows: Sequence[ItemRow], where: str) -> bytes:
    try:
        return render_html(record, rows).encode()
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise InputError(
            f"{escape(where)} is damaged: {escape(str(error), 200)}; "
            "run the gate again to write a new record"
        ) from error


def _require_page(path: Path) -> None:
    """Require that the path is unused or a page, so that a typo cannot replace the record."""
    try:
        kind = path.lstat().st_mode
        is_page = stat.S_ISREG(kind) and _PAGE_MARK in _head(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise unwritable(path, error, FIX) from error
    if not is_page:
        what = "not a page of phi3-lora-qa" if stat.S_ISREG(kind) else "not a regular file"
        raise InputError(
            f"{escape(str(path))} is not replaced: it exists and is {what}; "
            "use a different name with --output FILE"
        )


def _head(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read(_HEAD_BYTES)
