"""Read a suite of items from JSON lines, CSV, Parquet or a folder saved by ``datasets``.

Rows have the same fields in every kind of file: ``messages`` (the conversation) or ``prompt``;
``reference``, unless the conversation ends with it; and optionally ``id``, ``group``, ``choices``,
``checks`` and ``cluster``. Lists may be JSON text, which CSV files need.
"""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any

from phi3_lora_qa.close_match import close_matches
from phi3_lora_qa.data.chat_items import MOST_BYTES, Item, parse_item, read_jsonl
from phi3_lora_qa.errors import DataError, escape, reason_of
from phi3_lora_qa.reading import open_regular, require_regular, require_regular_below

COLUMNS = ("id", "messages", "prompt", "reference", "group", "choices", "checks", "cluster")
_LISTS = ("messages", "choices", "checks")


def read_suite(paths: Sequence[Path], columns: Sequence[str] = ()) -> tuple[Item, ...]:
    """Read the items of all files, in order.

    Args:
        paths: Files ``.jsonl``, ``.csv`` or ``.parquet``, or folders saved by ``datasets``.
        columns: Columns with other names than their fields: ``FIELD=COLUMN``.

    Raises:
        DataError: A file cannot be read, a row is not an item, an id occurs twice, no row has a
            named column, or there are no items. The message has the file and line.
    """
    renamed = _parse_columns(columns)
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
                    f"{where}: the id {escape(repr(item.id), 60)} is also used at "
                    f"{places[item.id]}; give every item its own id"
                )
            items[item.id], places[item.id] = item, where
    if not items:
        names = ", ".join(map(str, paths)) or "no file was named"
        raise DataError(f"the suite is empty ({names}); add at least one item")
    if unseen:
        field, column = next(iter(unseen.items()))
        raise DataError(
            f"no row has the column {escape(repr(column), 60)} for '{field}'; "
            "use the name of a column in the suite"
        )
    return tuple(items.values())


def without_duplicates(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the items without exact duplicates: same group, prompt, reference and checks.

    An item that occurs ten times is one observation; counting it as ten would make every interval
    too narrow. The one with the smallest id is kept, whatever the order of the file.
    """
    last_first = sorted(items, key=lambda item: item.id, reverse=True)
    kept = {(i.group, i.prompt, i.reference, i.checks): i.id for i in last_first}
    first = set(kept.values())
    return tuple(item for item in items if item.id in first)


def _parse_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return the column of each field that is named in a ``FIELD=COLUMN``."""
    names: dict[str, str] = {}
    for text in (part for option in columns for part in option.split(",")):
        field, sign, column = (part.strip() for part in text.partition("="))
        if not sign or not column or field not in COLUMNS or field in names:
            raise DataError(
                f"{escape(repr(text), 60)} does not name a field's column; write each FIELD=COLUMN "
                f"once, with one of the fields {', '.join(COLUMNS)}"
            )
        names[field] = column
    return names


def _renamed(row: object, names: Mapping[str, str]) -> object:
    """Rename the named columns to their fields; they replace columns that have those names."""
    if not names or not isinstance(row, Mapping):
        return row
    kept = {k: v for k, v in row.items() if k not in names and k not in names.values()}
    return kept | {field: row[column] for field, column in names.items() if column in row}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``(where, row)`` from a file of any kind."""
    suffix = path.suffix.lower()
    if os.path.isdir(path):  # noqa: PTH112  returns False for invalid names
        return _read_dataset(path)
    if not os.path.exists(path):  # noqa: PTH110
        raise DataError(
            f"there is no suite {path}; pass a file or a folder (to use a data set from a hub, "
            "save it with datasets.load_dataset(NAME, split=…).save_to_disk(FOLDER) "
            "and pass that folder)"
        )
    if suffix in (".jsonl", ".ndjson"):
        return read_jsonl(path)
    if suffix == ".csv":
        return _read_csv(path)
    if suffix in (".parquet", ".pq"):
        return _read_parquet(path)
    raise DataError(
        f"{path}: {suffix or 'a file without a suffix'} is not a supported kind of suite; "
        "pass .jsonl, .csv, .parquet, or a folder saved by datasets"
    )


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    """Read with the standard library, which unlike pandas keeps line numbers and all columns."""
    try:
        require_regular(path, MOST_BYTES)
        with TextIOWrapper(
            BufferedReader(open_regular(path)), encoding="utf-8-sig", newline=""
        ) as file:
            reader = csv.DictReader(file, strict=True)
            names = [name for name in reader.fieldnames or () if name]
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(
                    f"{path}:1: two columns are called {escape(repr(twice[0]), 60)}; "
                    "rename one of them"
                )
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(
                        f"{where}: the row does not have as many fields as the header; "
                        "quote fields that contain a comma or a line break"
                    )
                yield where, {name: value for name, value in row.items() if value != ""}
    except csv.Error as error:
        raise DataError(
            f"cannot read {path} in line {reader.reader.line_num}: {error}; fix the CSV, "
            "or pass JSON lines"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}: {reason_of(error)}; pass a UTF-8 CSV with a header"
        ) from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet

    try:
        require_regular(path, MOST_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error)}; pass a Parquet file") from error
    try:  # pandas would turn 3 into 3.0 in a column with a missing value
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow raises many kinds of errors on a damaged file
        raise DataError(
            f"cannot read {path}: {escape(str(error), 200)}; pass a Parquet file"
        ) from error
    return _table_rows(path, rows)


def _read_dataset(path: Path) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        require_regular_below(path)
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # datasets passes on the errors of its readers
        raise DataError(
            f"cannot read the folder {path} as a data set: {escape(str(error), 200)}; "
            "pass a folder that Dataset.save_to_disk wrote"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        raise DataError(
            f"the folder {path} contains the splits {', '.join(loaded)}; pass the folder of one "
            f"of them, such as {path / next(iter(loaded), '')}"
        )
    return _table_rows(path, loaded)


def _table_rows(path: Path, rows: Any) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(rows, 1):
        values = _without_missing({str(name): value for name, value in row.items()})
        yield f"{path}: row {number}", {name: _as_text(value) for name, value in values.items()}


def _as_text(value: Any) -> Any:
    """Return an integer, such as an id, as text, which it is in the other kinds of files."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _without_missing(value: Any) -> Any:
    """Drop the missing values (None, NaN) that a table has for fields that a row lacks."""
    if isinstance(value, Mapping):
        present = {name: _without_missing(part) for name, part in value.items()}
        return {name: part for name, part in present.items() if part is not None}
    if isinstance(value, list):
        return [_without_missing(part) for part in value]
    missing = isinstance(value, float) and math.isnan(value)
    return None if missing else value


def _as_conversation(row: object, where: str) -> object:
    """Convert ``prompt``, ``reference`` and lists given as JSON text to ``messages``."""
    if not isinstance(row, Mapping):
        return row
    _require_known(row, where)
    row = {n: _parse_list(v, n, where) if n in _LISTS else v for n, v in row.items()}
    messages, prompt, reference = (row.get(name) for name in ("messages", "prompt", "reference"))
    if (messages is None) == (prompt is None):
        raise DataError(f"{where}: a row must have either 'messages' or 'prompt'; set one of them")
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


def _parse_list(value: object, name: str, where: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: '{name}' is not JSON ({error}); write a list") from error


def _require_known(row: Mapping[Any, Any], where: str) -> None:
    """Raise on a misspelt field, such as 'gruop', which would silently keep its default.

    Other extra columns are allowed.
    """
    for name in row:
        close = close_matches(str(name).lower(), COLUMNS, cutoff=0.75)
        if name not in COLUMNS and close and close[0] not in row:
            raise DataError(
                f"{where}: unknown field {escape(repr(name), 40)}; did you mean '{close[0]}'?"
            )
