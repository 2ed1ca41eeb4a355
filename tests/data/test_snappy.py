"""Blocks that pyarrow compressed are decompressed; damaged ones are refused."""

import random

import pyarrow as pa
import pytest

from phi3_lora_qa.data.snappy import decompress


@pytest.mark.parametrize("size", [1, 59, 60, 61, 255, 256, 70_000, 300_000])
@pytest.mark.parametrize("letters", [1, 2, 256])
def test_what_was_compressed_comes_back(size: int, letters: int) -> None:
    content = bytes(random.Random(size).choices(range(letters), k=size))
    for text in (content, content[: size // 2] * 2, b"abc" * size):
        packed = pa.compress(text, codec="snappy", asbytes=True)
        assert decompress(packed, len(text)) == text


def test_a_distant_copy_is_read() -> None:
    """A copy with an offset of four bytes, which compressors write rarely: 'ab', then 'ab'."""
    assert decompress(b"\x04\x04ab\x07\x02\x00\x00\x00", 4) == b"abab"


@pytest.mark.parametrize(
    ("block", "size"),
    [
        (b"", 0),
        (b"\x04\x04ab", 4),
        (b"\x04\x04ab\x05\x03", 4),
        (b"\x04\x04ab\x05\x00", 4),
        (b"\x04\x04ab", 5),
        (b"\xff\xff\xff\xff\xff\x01", 3),
        (b"\x02\x04ab\x05\x02", 2),
    ],
)
def test_a_damaged_block_is_refused(block: bytes, size: int) -> None:
    with pytest.raises((ValueError, IndexError)):
        decompress(block, size)
