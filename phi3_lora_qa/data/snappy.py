"""Decompresses snappy, the compression that parquet files have by default.

Format: https://github.com/google/snappy/blob/main/format_description.txt
"""


def decompress(data: bytes, size: int) -> bytes:
    """Return the content of a block.

    Args:
        data: The block.
        size: The size of its content in bytes, which is known from elsewhere.

    Raises:
        ValueError: The block is damaged, or its content has another size.
    """
    said, at = _length(data)
    if said != size:
        raise ValueError("a compressed block does not have the size that it says")
    found = bytearray()
    while at < len(data) and len(found) <= size:
        tag, at = data[at], at + 1
        kind, upper = tag & 3, tag >> 2
        if kind == 0:
            more = max(0, upper - 59)  # bytes that the length takes
            count = 1 + (int.from_bytes(data[at : at + more], "little") if more else upper)
            at += more
            found += data[at : at + count]
            at += count
            continue
        if kind == 1:
            count, distance = 4 + (upper & 7), upper >> 3 << 8 | data[at]
            at += 1
        else:
            width = 2 if kind == 2 else 4
            count, distance = 1 + upper, int.from_bytes(data[at : at + width], "little")
            at += width
        _repeat(found, distance, count)
    if len(found) != size:
        raise ValueError("a compressed block is damaged")
    return bytes(found)


def _repeat(found: bytearray, distance: int, count: int) -> None:
    """Append bytes from before; they may overlap with those that are appended."""
    if not 0 < distance <= len(found):
        raise ValueError("a compressed block is damaged")
    start = len(found) - distance
    if distance >= count:
        found += found[start : start + count]
    else:
        found += (found[start:] * (count // distance + 1))[:count]


def _length(data: bytes) -> tuple[int, int]:
    number = 0
    for at, byte in enumerate(data[:5]):
        number |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return number, at + 1
    raise ValueError("a compressed block is damaged")
