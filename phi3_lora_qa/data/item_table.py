"""The table of item rows: one row for each item, base and tuned, stored as parquet."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.data.parquet_columns import UnsupportedParquetError, read_columns
from phi3_lora_qa.dataclass_json import from_plain
from phi3_lora_qa.errors import InputError, MissingDependencyError, escape
from phi3_lora_qa.extras import is_installed, pip_command
from phi3_lora_qa.reading import read_regular
from phi3_lora_qa.record import ItemRow, Turn
from phi3_lora_qa.unicode_surrogates import escape_surrogates

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = (
    "id", "group", "prompt", "reference", "base_answer", "tuned_answer", "base_error",
    "tuned_error", "cluster", "extras",
)  # fmt: skip
NUMBERS = ("base_loss", "tuned_loss")
_BASE, _TUNED = ".base", ".tuned"
_MOST_BYTES = 1 << 30

Columns = Mapping[str, Iterable[Any]]


def items_as_parquet(rows: Sequence[ItemRow]) -> bytes:
    r"""Return the rows as parquet: the columns of `ItemRow`, and ``METRIC.base``/``.tuned``.

    ``prompt`` is JSON text: a list of turns, each with ``role`` and ``content``. A row without one
    of the metrics has NaN there, and is read without it. A lone surrogate, which UTF-8 cannot
    encode, is written as ``\udXXX``. The encoding is the one that `read_columns` reads.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: pa.array([_text(row, name) for row in rows], pa.string()) for name in TEXTS}
    columns |= {name: _numbers(getattr(row, name) for row in rows) for name in NUMBERS}
    columns["tokens"] = pa.array([row.tokens for row in rows], pa.int64())
    for metric in sorted({metric for row in rows for metric in row.scores}):
        pairs = [row.scores.get(metric, (math.nan, math.nan)) for row in rows]
        columns[metric + _BASE] = _numbers(base for base, _ in pairs)
        columns[metric + _TUNED] = _numbers(tuned for _, tuned in pairs)
    schema = pa.schema([pa.field(n, column.type, nullable=False) for n, column in columns.items()])
    buffer = BytesIO()
    parquet.write_table(
        pa.table(columns, schema=schema), buffer, compression="gzip", use_dictionary=False
    )
    return buffer.getvalue()


def _numbers(values: Iterable[float]) -> "pa.DoubleArray":
    import pyarrow as pa

    return pa.array([float(value) for value in values], pa.float64())


def read_items(path: Path | BytesIO) -> tuple[ItemRow, ...]:
    """Read the rows back.

    Raises:
        InputError: The file is missing, is not parquet, or is not a table that `items_as_parquet`
            made.
        MissingDependencyError: pyarrow is not installed, and another program wrote the file.
    """
    try:
        return tuple(_rows(_read(path)))
    except UnsupportedParquetError as error:
        raise MissingDependencyError(
            f"the items {escape(str(path))} need pyarrow, which is not installed: {error}; "
            f"run: {pip_command('gate')}"
        ) from error
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise InputError(
            f"cannot read the items {escape(str(path))}: {escape(str(error), 200)}; "
            "run the gate again to write them, or move the file away to report without items"
        ) from error


def _read(path: Path | BytesIO) -> Columns:
    data = read_regular(path, _MOST_BYTES) if isinstance(path, Path) else path.getvalue()
    try:
        return read_columns(data)
    except UnsupportedParquetError:  # another program wrote it
        if not is_installed("pyarrow"):
            raise
        return _read_any(data)


def _read_any(data: bytes) -> Columns:
    """Return the columns of any parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        columns = parquet.read_table(BytesIO(data)).to_pydict()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    if incomplete := [name for name in TEXTS if None in columns[name]]:
        raise ValueError(f"a value of the column {incomplete[0]} is missing")
    return {  # pandas writes NaN as a missing value
        name: values if name in TEXTS else [math.nan if v is None else v for v in values]
        for name, values in columns.items()
    }


def _rows(frame: Columns) -> list[ItemRow]:
    metrics = [name.removesuffix(_BASE) for name in frame if name.endswith(_BASE)]
    texts = zip(*([str(value) for value in frame[name]] for name in TEXTS), strict=True)
    losses = zip(*([float(value) for value in frame[name]] for name in NUMBERS), strict=True)
    scores = [
        [(float(b), float(t)) for b, t in zip(frame[m + _BASE], frame[m + _TUNED], strict=True)]
        for m in metrics
    ]
    return [
        ItemRow(
            **_fields(dict(zip(TEXTS, text, strict=True))),
            base_loss=loss[0],
            tuned_loss=loss[1],
            tokens=int(tokens),
            scores={
                metric: column[i]
                for metric, column in zip(metrics, scores, strict=True)
                if not all(map(math.isnan, column[i]))
            },
        )
        for i, (text, loss, tokens) in enumerate(zip(texts, losses, frame["tokens"], strict=True))
    ]


def _text(row: ItemRow, name: str) -> str:
    if name == "prompt":
        # The escape that `escape_surrogates` writes for a lone surrogate is valid JSON.
        turns = [asdict(turn) for turn in row.prompt]
        return escape_surrogates(json.dumps(turns, ensure_ascii=False))
    return escape_surrogates(getattr(row, name))


def _fields(texts: dict[str, str]) -> dict[str, Any]:
    turns = tuple(from_plain(Turn, turn) for turn in json.loads(texts["prompt"]))
    return {**texts, "prompt": turns}


def error_text(row: ItemRow) -> str:
    """Return why an item was not scored, with the model that it failed for; empty if it was."""
    sides = (("base", row.base_error), ("tuned", row.tuned_error))
    return "; ".join(f"{side}: {error}" for side, error in sides if error)
