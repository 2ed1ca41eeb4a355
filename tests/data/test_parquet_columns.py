"""What pyarrow writes is read back equal; a damaged file is refused, quickly and with one error."""

import io
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi3_lora_qa.data.parquet_columns import UnsupportedParquetError, read_columns


def table(rows: int) -> Any:
    rng = random.Random(rows)
    words = ["", "a", "naïve \N{SNOWMAN}", "b" * 300, "c\x00d"]
    return pa.table(
        {
            "few": [rng.choice(words) for _ in range(rows)],
            "many": [f"{i}-{rng.random()}" for i in range(rows)],
            "gaps": [rng.choice([None, *words]) for _ in range(rows)],
            "empty": pa.array([None] * rows, pa.string()),
            "number": [rng.gauss(0.0, 1e9) for _ in range(rows)],
            "small": pa.array([rng.random() for _ in range(rows)], pa.float32()),
            "count": pa.array([rng.randrange(-(2**63), 2**63) for _ in range(rows)], pa.int64()),
            "short": pa.array([rng.randrange(-9, 9) for _ in range(rows)], pa.int32()),
            "flag": [rng.choice([True, False, None]) for _ in range(rows)],
        }
    )


def written(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("rows", [0, 1, 7, 9, 1_000])
@pytest.mark.parametrize("compression", ["snappy", "gzip", "none"])
def test_what_pyarrow_writes_is_read_back(rows: int, compression: str) -> None:
    content = table(rows)
    for options in (
        {},
        {"use_dictionary": False},
        {"row_group_size": 4, "data_page_size": 50},
        {"dictionary_pagesize_limit": 64, "data_page_size": 200},
    ):
        data = written(content, compression=compression, **options)
        assert read_columns(data) == content.to_pydict(), options


def test_a_required_column_is_read() -> None:
    schema = pa.schema([pa.field("id", pa.string(), nullable=False)])
    assert read_columns(written(pa.table({"id": ["x", "y"]}, schema=schema))) == {"id": ["x", "y"]}


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (pa.table({"x": [[1, 2], [3]]}), {}),
        (pa.table({"x": [{"y": 1}]}), {}),
        (pa.table({"x": ["a"]}), {"compression": "zstd"}),
        (pa.table({"x": ["a"]}), {"data_page_version": "2.0"}),
        (
            pa.table({"x": [1, 2]}),
            {"use_dictionary": False, "column_encoding": "DELTA_BINARY_PACKED"},
        ),
        (pa.table({"x": pa.array([b"abcd"], pa.binary(4))}), {}),
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
    data = written(pa.table({"x": [None] * 300}, schema=pa.schema([("x", pa.string())])))
    count = bytes([0x16, 0xD8, 0x04])  # the field num_rows in Thrift's encoding: 300
    assert data.count(count) >= 1
    huge = bytes([0x16]) + bytes([0xFE] + [0xFF] * 7 + [0x0F])
    changed = data.replace(count, huge)
    size = int.from_bytes(data[-8:-4], "little") + len(changed) - len(data)
    with pytest.raises(ValueError, match="cells"):
        read_columns(changed[:-8] + size.to_bytes(4, "little") + b"PAR1")
