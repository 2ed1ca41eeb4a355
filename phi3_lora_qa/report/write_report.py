"""The report's files made from a record, and the page made again from them."""

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from phi3_lora_qa.data.item_table import items_as_parquet, read_items
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.reading import open_regular
from phi3_lora_qa.record import ItemRow, RunRecord, parse_record, read_record
from phi3_lora_qa.atomic_write import unwritable, write_whole
from phi3_lora_qa.report.html import render_html
from phi3_lora_qa.report.markdown import render_markdown
from phi3_lora_qa.report.report_folder import ITEMS, NAMES, PAGE, RECORD, SUMMARY, put
from phi3_lora_qa.settings import real

_FILE_NAME = re.compile(r"(\w[\w.-]*)?")
_PAGE_MARK = b"phi3-lora-qa</title>"
_HEAD_BYTES = 1 << 14


def write_report(record: RunRecord, rows: Sequence[ItemRow], directory: Path) -> Path:
    """Write record.json, items.parquet, summary.md and report.html, and return the page's path.

    Raises:
        InputError: The folder cannot be made or written, or a file there was not written by the
            gate; what was there is left as it was.
    """
    put(directory, _files(record, rows))
    return directory / PAGE


def replace_report(record: RunRecord, directory: Path) -> None:
    """Put a record that judges nothing in the place of an earlier report, the summary first.

    Raises:
        InputError: As `write_report`.
    """
    put(directory, _files(record, ()), tuple(reversed(NAMES)))


def _files(record: RunRecord, rows: Sequence[ItemRow]) -> Mapping[str, bytes]:
    """Return the files of a report. The record is made to name its items.

    The page is rendered from what the files say, so that rendering it again gives the same bytes.
    """
    items = items_as_parquet(rows) if rows else b""
    named = replace(record, items=ITEMS if rows else "")
    # Half a surrogate pair in a name becomes the escape that JSON has for it.
    text = (named.to_json() + "\n").encode("utf-8", "backslashreplace")
    read = parse_record(text.decode(), RECORD)
    files = {
        RECORD: text,
        PAGE: _page(read, read_items(BytesIO(items)) if rows else (), RECORD),
        SUMMARY: render_markdown(read).encode(),
    }
    return files | ({ITEMS: items} if rows else {})


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
    page = _page(record, rows, str(record_path))
    if output.name == PAGE and real(output.parent) == real(record_path.parent):
        put(record_path.parent, {PAGE: page}, (PAGE,))
    else:
        _require_page(output)
        write_whole(output, page)


def _page(record: RunRecord, rows: Sequence[ItemRow], where: str) -> bytes:
    try:
        return render_html(record, rows).encode()
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise InputError(
            f"{escape(where)} is damaged ({escape(str(error), 200)}); "
            "gate the adapter again to write a new record"
        ) from error


def _require_page(path: Path) -> None:
    """A page may take the place of a page and of nothing else, such as the record by a slip."""
    try:
        kind = path.lstat().st_mode
        is_page = stat.S_ISREG(kind) and _PAGE_MARK in _head(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    if not is_page:
        what = "no page of this tool" if stat.S_ISREG(kind) else "no regular file"
        raise InputError(
            f"{escape(str(path))} is there already and is {what}, so it is not replaced; "
            "give another name with --output FILE"
        )


def _head(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read(_HEAD_BYTES)
