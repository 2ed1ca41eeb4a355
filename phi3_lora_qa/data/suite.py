"""Suites: the items that base and tuned are held to, from JSON lines, CSV, Parquet or ``datasets``.

Every row has the same form whatever the file: ``messages`` (the conversation), or ``prompt``; a
``reference``, unless the conversation ends with it; and optionally ``id``, ``group``, ``choices``,
``checks`` and ``cluster``. Lists may stand as JSON text, as they must in a CSV file.
"""

import csv
import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any

from phi3_lora_qa.data.chat_items import LARGEST, Item, parse_item, read_jsonl
from phi3_lora_qa.errors import DataError, escape
from phi3_lora_qa.reading import open_regular, require_regular, require_regular_below

COLUMNS = ("id", "messages", "prompt", "reference", "group", "choices", "checks", "cluster")
_LISTS = ("messages", "choices", "checks")


def read_suite(paths: Sequence[Path], columns: Sequence[str] = ()) -> tuple[Item, ...]:
    """Read the items of all files, in their order.

    Args:
        paths: Files ``.jsonl``, ``.csv`` or ``.parquet``, or folders that ``datasets`` saved.
        columns: What the files call the fields, where it is another name: ``FIELD=COLUMN``.

    Raises:
        DataError: A file cannot be read, a row is no item, an id occurs twice, a column is in no
            row, or there are no items at all. The message gives file and line.
    """
    renamed = _column_names(columns)
    unseen = dict(renamed)
    items: dict[str, Item] = {}
    places: dict[str, str] = {}
    for path in paths:
        for number, (where, row) in enumerate(_rows(path), 1):
            unseen = {f: c for f, c in unseen.items() if isinstance(row, Mapping) and c not in row}
            item = parse_item(
                _as_conversation(_renamed(row, renamed), where), where, f"{path.stem}:{number}"
            )
            if item.id in items:
                raise DataError(
                    f"{where}: the id {escape(repr(item.id), 60)} was used at {places[item.id]}; "
                    "give every item an id of its own"
                )
            items[item.id], places[item.id] = item, where
    if not items:
        names = ", ".join(map(str, paths)) or "no file was named"
        raise DataError(f"the suite is empty ({names}); give at least one item")
    if unseen:
        field, column = next(iter(unseen.items()))
        raise DataError(
            f"no row has the column {escape(repr(column), 60)}, from which '{field}' was to come; "
            "give a column that the suite has"
        )
    return tuple(items.values())


def without_copies(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the items without those that ask and expect what another one of their group does.

    A question that is asked ten times is one observation and not ten: counted as ten, it would
    make every interval too narrow. The first by its id stays, whatever the order of the file.
    """
    last_first = sorted(items, key=lambda item: item.id, reverse=True)
    kept = {(i.group, i.prompt, i.reference, i.checks): i.id for i in last_first}
    first = set(kept.values())
    return tuple(item for item in items if item.id in first)


def _column_names(columns: Sequence[str]) -> dict[str, str]:
    """Return the column of each field that has one of another name."""
    names: dict[str, str] = {}
    for text in (part for given in columns for part in given.split(",")):
        field, sign, column = (part.strip() for part in text.partition("="))
        if not sign or not column or field not in COLUMNS or field in names:
            raise DataError(
                f"{escape(repr(text), 60)} names no column of a field; write each FIELD=COLUMN "
                f"once, with one of the fields {', '.join(COLUMNS)}"
            )
        names[field] = column
    return names


def _renamed(row: object, names: Mapping[str, str]) -> object:
    """Give the named columns the names of their fields, in the place of what bears those."""
    if not names or not isinstance(row, Mapping):
        return row
    kept = {k: v for k, v in row.items() if k not in names and k not in names.values()}
    return kept | {field: row[column] for field, column in names.items() if column in row}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``(where, row)`` from a file of any kind."""
    suffix = path.suffix.lower()
    if os.path.isdir(path):  # noqa: PTH112  false of a name that no system could have
        return _read_dataset(path)
    if not os.path.exists(path):  # noqa: PTH110
        raise DataError(
            f"there is no suite {path}; give a file or a folder (a data set on a hub is not "
            "fetched: save it with datasets.load_dataset(NAME, split=…).save_to_disk(FOLDER) "
            "and give that folder)"
        )
    if suffix in (".jsonl", ".ndjson"):
        return read_jsonl(path)
    if suffix == ".csv":
        return _read_csv(path)
    if suffix in (".parquet", ".pq"):
        return _read_parquet(path)
    raise DataError(
        f"{path}: {suffix or 'a file without a suffix'} is no kind of suite; "
        "give .jsonl, .csv, .parquet, or a folder that datasets saved"
    )


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    """Read with the standard library: unlike pandas it keeps line numbers and shifts no column."""
    try:
        require_regular(path, LARGEST)
        with TextIOWrapper(
            BufferedReader(open_regular(path)), encoding="utf-8-sig", newline=""
        ) as file:
            reader = csv.DictReader(file, strict=True)
            names = [name for name in reader.fieldnames or () if name]
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(
                    f"{path}:1: two columns are called {escape(repr(twice[0]), 60)}; "
                    "give one of them another name"
                )
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(
                        f"{where}: the row has not as many fields as the header; "
                        "quote fields that hold a comma or a line break"
                    )
                yield where, {name: value for name, value in row.items() if value != ""}
    except csv.Error as error:
        raise DataError(
            f"cannot read {path} in line {reader.reader.line_num}: {error}; mend the CSV, "
            "or give JSON lines"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}; give a UTF-8 CSV with a header") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet

    try:
        require_regular(path, LARGEST)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}; give a Parquet file") from error
    try:  # pandas would make 3.0 of a 3 beside a missing value
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow raises a dozen kinds on a damaged file
        raise DataError(
            f"cannot read {path}: {escape(str(error), 200)}; give a Parquet file"
        ) from error
    return _table_rows(path, rows)


def _read_dataset(path: Path) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        require_regular_below(path)
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets raises what its readers raise
        raise DataError(
            f"cannot read the folder {path} as a data set: {escape(str(error), 200)}; "
            "give a folder that Dataset.save_to_disk wrote"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        raise DataError(
            f"the folder {path} holds the splits {', '.join(loaded)}; give the folder of one of "
            f"them, such as {path / next(iter(loaded), '')}"
        )
    return _table_rows(path, loaded)


def _table_rows(path: Path, rows: Any) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(rows, 1):
        values = _plain({str(name): value for name, value in row.items()})
        yield f"{path}: row {number}", {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> Any:
    """An integer, such as an id, is text in every other kind of file."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _plain(value: Any) -> Any:
    """Leave out what a table has for a missing value: a field that this row or object lacks."""
    if isinstance(value, Mapping):
        plain = {name: _plain(part) for name, part in value.items()}
        return {name: part for name, part in plain.items() if part is not None}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    missing = isinstance(value, float) and math.isnan(value)
    return None if missing else value


def _as_conversation(row: object, where: str) -> object:
    """Bring ``prompt``, lists as JSON text, and ``reference`` into the form of messages."""
    if not isinstance(row, Mapping):
        return row
    _require_known(row, where)
    row = {n: _list(v, n, where) if n in _LISTS else v for n, v in row.items()}
    messages, prompt, reference = (row.get(name) for name in ("messages", "prompt", "reference"))
    if (messages is None) == (prompt is None):
        raise DataError(f"{where}: a row must have either 'messages' or 'prompt'; give one of them")
    for name, text in (("prompt", prompt), ("reference", reference)):
        if text is not None and (not isinstance(text, str) or not text.strip()):
            raise DataError(f"{where}: '{name}' must be a non-empty string; write one")
    if prompt is not None:
        if reference is None:
            raise DataError(f"{where}: 'prompt' needs a 'reference'; add the answer you expect")
        messages = [{"role": "user", "content": prompt}]
    if reference is not None and isinstance(messages, list):
        messages = [*messages, {"role": "assistant", "content": reference}]
    return {**row, "messages": messages}


def _list(value: object, name: str, where: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: '{name}' is no JSON ({error}); write a list") from error


def _require_known(row: Mapping[Any, Any], where: str) -> None:
    """A misspelt 'group' would silently fall back to the default; other extra columns may stay."""
    for name in row:
        near = difflib.get_close_matches(str(name).lower(), COLUMNS, n=1, cutoff=0.75)
        if name not in COLUMNS and near and near[0] not in row:
            raise DataError(
                f"{where}: unknown field {escape(repr(name), 40)}; did you mean '{near[0]}'?"
            )
