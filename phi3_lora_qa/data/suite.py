"""Suites: the items that base and tuned are held to, from JSON lines, CSV, Parquet or ``datasets``.

Every row has the same form whatever the file: ``messages`` (the conversation), or ``prompt``; a
``reference``, unless the conversation ends with it; and optionally ``id`` and ``group``.
"""

import csv
import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from phi3_lora_qa.data.chat import Item, parse_item, read_jsonl
from phi3_lora_qa.errors import DataError, escape

COLUMNS = ("id", "messages", "prompt", "reference", "group")


def read_suite(paths: Sequence[Path]) -> tuple[Item, ...]:
    """Read the items of all files, in their order.

    Args:
        paths: Files ``.jsonl``, ``.csv`` or ``.parquet``, or folders that ``datasets`` saved.

    Raises:
        DataError: A file cannot be read, a row is no item, an id occurs twice, or there are no
            items at all. The message gives file and line.
    """
    items: dict[str, Item] = {}
    places: dict[str, str] = {}
    for path in paths:
        for number, (where, row) in enumerate(_rows(path), 1):
            item = parse_item(_as_conversation(row, where), where, f"{path.stem}:{number}")
            if item.id in items:
                raise DataError(
                    f"{where}: the id {escape(repr(item.id), 60)} was used at {places[item.id]}; "
                    "give every item an id of its own"
                )
            items[item.id], places[item.id] = item, where
    if not items:
        names = ", ".join(map(str, paths)) or "no file was named"
        raise DataError(f"the suite is empty ({names}); give at least one item")
    return tuple(items.values())


def without_copies(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the items without those that ask and expect what an earlier one of their group does.

    A question that is asked ten times is one observation and not ten: counted as ten, it would
    make every interval too narrow.
    """
    kept = {(item.group, item.prompt, item.reference): item for item in reversed(items)}
    first = {item.id for item in kept.values()}
    return tuple(item for item in items if item.id in first)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``(where, row)`` from a file of any kind."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return _read_dataset(path)
    if not path.exists():
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
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(
                        f"{where}: the row has not as many fields as the header; "
                        "quote fields that hold a comma or a line break"
                    )
                yield where, {name: value for name, value in row.items() if value != ""}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; give a UTF-8 CSV with a header") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises a dozen kinds on a damaged file
        raise DataError(
            f"cannot read {path}: {escape(str(error), 200)}; give a Parquet file"
        ) from error
    return _table_rows(path, frame.to_dict("records"))


def _read_dataset(path: Path) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
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
        values = {str(name): _plain(value) for name, value in row.items()}
        yield (
            f"{path}: row {number}",
            {name: value for name, value in values.items() if value is not None},
        )


def _plain(value: Any) -> Any:
    """Turn an array or a scalar of numpy into Python's own, an integer id into text."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float) and math.isnan(value):
        return None  # how pandas marks a missing value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_conversation(row: object, where: str) -> object:
    """Bring ``prompt``, ``messages`` as JSON text, and ``reference`` into the form of messages."""
    if not isinstance(row, Mapping):
        return row
    _require_known(row, where)
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
    elif isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: 'messages' is no JSON ({error}); write a list of turns"
            ) from error
    if reference is not None and isinstance(messages, list):
        messages = [*messages, {"role": "assistant", "content": reference}]
    return {**row, "messages": messages}


def _require_known(row: Mapping[Any, Any], where: str) -> None:
    """A misspelt 'group' would silently fall back to the default; other extra columns may stay."""
    for name in row:
        near = difflib.get_close_matches(str(name).lower(), COLUMNS, n=1, cutoff=0.75)
        if name not in COLUMNS and near and near[0] not in row:
            raise DataError(
                f"{where}: unknown field {escape(repr(name), 40)}; did you mean '{near[0]}'?"
            )
