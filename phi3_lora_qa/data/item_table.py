"""The per-item table: one row for each question, base against tuned, kept as parquet."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.reading import require_regular
from phi3_lora_qa.record import ItemRow
from phi3_lora_qa.surrogates import escape_surrogates

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("id", "group", "prompt", "reference", "base_answer", "tuned_answer", "error")
LATER = ("cluster", "extras")
"""Texts that tables of earlier versions lack."""

NUMBERS = ("base_loss", "tuned_loss")
_BASE, _TUNED = ".base", ".tuned"


def items_as_parquet(rows: Sequence[ItemRow]) -> bytes:
    r"""Return the rows as parquet: the columns of `ItemRow`, and ``METRIC.base``/``.tuned``.

    A row without one of the metrics gets NaN there, and is read back without it. Half a
    surrogate pair, which no file can hold, is written as ``\udXXX``.
    """
    import pandas as pd

    metrics = sorted({metric for row in rows for metric in row.scores})
    columns: dict[str, object] = {
        name: pd.array([escape_surrogates(getattr(row, name)) for row in rows], dtype="string")
        for name in (*TEXTS, *LATER)
    }
    columns |= {name: [float(getattr(row, name)) for row in rows] for name in NUMBERS}
    columns["tokens"] = pd.array([row.tokens for row in rows], dtype="int64")
    for metric in metrics:
        pairs = [row.scores.get(metric, (math.nan, math.nan)) for row in rows]
        columns[metric + _BASE] = [float(base) for base, _ in pairs]
        columns[metric + _TUNED] = [float(tuned) for _, tuned in pairs]
    buffer = BytesIO()
    pd.DataFrame(columns).to_parquet(buffer, index=False)
    return buffer.getvalue()


def read_items(path: Path | BytesIO) -> tuple[ItemRow, ...]:
    """Read the rows back.

    Raises:
        InputError: The file is missing, is no parquet, or is no table that `items_as_parquet` made.
    """
    import pandas as pd
    from pyarrow import ArrowException

    try:
        if isinstance(path, Path):
            require_regular(path)
        frame = pd.read_parquet(path)
        return tuple(_rows(frame))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        ArrowException,
    ) as error:
        raise InputError(
            f"cannot read the items {escape(str(path))}: {escape(str(error), 200)}; "
            "gate the adapter again to write them, or move the file away to report without items"
        ) from error


def _rows(frame: "pd.DataFrame") -> list[ItemRow]:
    metrics = [name.removesuffix(_BASE) for name in frame.columns if name.endswith(_BASE)]
    named = (*TEXTS, *(name for name in LATER if name in frame))
    texts = zip(*([str(value) for value in frame[name]] for name in named), strict=True)
    losses = zip(*([float(value) for value in frame[name]] for name in NUMBERS), strict=True)
    scores = [
        [(float(b), float(t)) for b, t in zip(frame[m + _BASE], frame[m + _TUNED], strict=True)]
        for m in metrics
    ]
    return [
        ItemRow(
            **dict(zip(named, text, strict=True)),
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
