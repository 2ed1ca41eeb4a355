"""What pyarrow writes is read back equal; a damaged file is refused, quickly and with one error."""

import io
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi3_lora_qa.data.parquet_columns import UnsupportedParquetError, read_columns

KEPT: dict[str, Any] = {"compression": "gzip", "use_dictionary": False}


def required(columns: dict[str, Any]) -> Any:
    """A table in which no value may be missing."""
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return pa.table(
        arrays,
        schema=pa.schema([pa.field(n, a.type, nullable=False) for n, a in arrays.items()]),
    )


def table(rows: int) -> Any:
    rng = random.Random(rows)
    words = ["", "a", "naïve \N{SNOWMAN}", "b" * 300, "c\x00d"]
    return required(
        {
            "few": pa.array([rng.choice(words) for _ in range(rows)], pa.string()),
            "many": pa.array([f"{i}-{rng.random()}" for i in range(rows)], pa.string()),
            "number": pa.array([rng.gauss(0.0, 1e9) for _ in range(rows)], pa.float64()),
            "small": pa.array([rng.random() for _ in range(rows)], pa.float32()),
            "count": pa.array([rng.randrange(-(2**63), 2**63) for _ in range(rows)], pa.int64()),
            "short": pa.array([rng.randrange(-9, 9) for _ in range(rows)], pa.int32()),
        }
    )


def written(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(content, buffer, **(KEPT | options))
    return buffer.getvalue()


@pytest.mark.parametrize("rows", [0, 1, 7, 9, 1_000])
def test_what_pyarrow_writes_is_read_back(rows: int) -> None:
    content = table(rows)
    for options in ({}, {"row_group_size": 4, "data_page_size": 50}, {"data_page_size": 200}):
        data = written(content, **options)
        assert read_columns(data) == content.to_pydict(), options


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (required({"x": [[1, 2], [3]]}), {}),
        (required({"x": [{"y": 1}]}), {}),
        (required({"x": ["a"]}), {"compression": "zstd"}),
        (required({"x": ["a"]}), {"compression": "snappy"}),
        (required({"x": ["a"]}), {"compression": "none"}),
        (required({"x": ["a"]}), {"use_dictionary": True}),
        (required({"x": ["a"]}), {"data_page_version": "2.0"}),
        (required({"x": [1, 2]}), {"column_encoding": "DELTA_BINARY_PACKED"}),
        (required({"x": pa.array([b"abcd"], pa.binary(4))}), {}),
        (required({"x": [True]}), {}),
        (pa.table({"x": ["a"]}), {}),
    ],
)
def test_another_kind_of_parquet_is_named_unsupported(
    content: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedParquetError):
        read_columns(written(content, **options))


def test_a_damaged_file_is_refused_or_read_and_never_crashes() -> None:
    rng = random.Random(0)
    good = written(table(40))
    refused = 0
    for _ in range(2_000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        try:
            read_columns(bytes(data))
        except ValueError:
            refused += 1
    assert refused > 500
    for cut in range(0, len(good), 97):
        with pytest.raises(ValueError, match=r"."):
            read_columns(good[:cut])


def test_a_count_of_rows_that_no_file_can_have_is_refused() -> None:
    data = written(required({"x": [0] * 300}))
    count = bytes([0x16, 0xD8, 0x04])  # the field num_rows in Thrift's encoding: 300
    assert data.count(count) >= 1
    huge = bytes([0x16]) + bytes([0xFE] + [0xFF] * 7 + [0x0F])
    changed = data.replace(count, huge)
    size = int.from_bytes(data[-8:-4], "little") + len(changed) - len(data)
    with pytest.raises(ValueError, match="cells"):
        read_columns(changed[:-8] + size.to_bytes(4, "little") + b"PAR1")
