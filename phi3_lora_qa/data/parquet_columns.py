"""Reads the parquet tables that the gate writes, with the standard library alone.

pyarrow reads any parquet file, but takes 170 MB, and drawing a report again needs no more than
this: columns of texts and numbers without missing values, as `item_table` has pyarrow write them:
in plain encoding, compressed by gzip. A file is untrusted: every count and length in it is checked
before it is used.
Format: https://parquet.apache.org/docs/file-format/ and Thrift's compact protocol.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MARK = b"PAR1"
_MOST_CELLS = 50_000_000
_MOST_PAGE_BYTES = 1 << 28
_MOST_DEPTH = 12

Thrift = Mapping[int, Any]
"""A struct of Thrift: its fields by their numbers."""

# Numbers of the format's enumerations.
_DATA_PAGE, _PLAIN, _REQUIRED, _GZIP, _BYTES = 0, 0, 0, 2, 6
_NUMBERS = {1: "i", 2: "q", 4: "f", 5: "d"}


class UnsupportedParquetError(ValueError):
    """The file is parquet, but not of the kind that the gate writes."""


def read_columns(data: bytes) -> dict[str, list[Any]]:
    """Return the columns of a table by name.

    Raises:
        UnsupportedParquetError: The file is of another kind than the gate writes.
        ValueError: The file is damaged, or has too many cells.
    """
    try:
        return _read(data)
    except (
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        struct.error,
        zlib.error,
    ) as error:
        raise ValueError(f"the parquet file is damaged ({type(error).__name__})") from error


def _read(data: bytes) -> dict[str, list[Any]]:
    if len(data) < 12 or not data.startswith(MARK) or not data.endswith(MARK):
        raise ValueError("not a parquet file")
    size = int.from_bytes(data[-8:-4], "little")
    if size > len(data) - 12:
        raise ValueError("the parquet file is cut off")
    footer, _ = _Thrift(data, len(data) - 8 - size).struct()
    root, *leaves = footer[2]
    if any(leaf.get(5) for leaf in leaves) or root.get(5) != len(leaves):
        raise UnsupportedParquetError("it has nested columns")
    if any(leaf.get(3) != _REQUIRED for leaf in leaves):
        raise UnsupportedParquetError("its columns may have missing values")
    if not 0 <= footer[3] * len(leaves) <= _MOST_CELLS:
        raise ValueError(f"it has more than {_MOST_CELLS:,} cells")
    names = [leaf[4].decode("utf-8") for leaf in leaves]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    if len(columns) < len(names):
        raise ValueError("two columns have the same name")
    for group in footer[4]:
        for name, leaf, chunk in zip(names, leaves, group[1], strict=True):
            columns[name] += _Chunk(data=data, leaf=leaf, about=chunk[3]).values(group[3])
    if any(len(column) != footer[3] for column in columns.values()):
        raise ValueError("its columns do not have as many rows as it says")
    return columns


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """The part of a column that is in one group of rows."""

    data: bytes
    leaf: Thrift
    about: Thrift

    def values(self, rows: int) -> list[Any]:
        """Return the values of all pages."""
        found: list[Any] = []
        for header, body in self._pages(rows):
            count, encoding = header[5][1], header[5][2]
            if encoding != _PLAIN:
                raise UnsupportedParquetError("its values have another encoding")
            if not 0 < count <= rows - len(found):
                raise ValueError("a page has more values than its column")
            found += self._plain(body, count)
            if len(found) == rows:
                break
        return found

    def _pages(self, rows: int) -> Iterator[tuple[Thrift, bytes]]:
        if self.about[4] != _GZIP:
            raise UnsupportedParquetError("it is not compressed by gzip")
        start = self.about[9]
        while rows:
            header, start = _Thrift(self.data, start).struct()
            if header[1] != _DATA_PAGE:
                raise UnsupportedParquetError("it has pages of another kind")
            packed, size = header[3], header[2]
            if not 0 <= packed <= len(self.data) - start or not 0 < size <= _MOST_PAGE_BYTES:
                raise ValueError("a page is cut off, or too large")
            gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
            body = gzip.decompress(self.data[start : start + packed], size)
            if len(body) != size:
                raise ValueError("a page does not have the size that it says")
            yield header, body
            start += packed

    def _plain(self, body: bytes, count: int) -> list[Any]:
        kind = self.leaf.get(1)
        if kind in _NUMBERS:
            return list(struct.unpack_from(f"<{count}{_NUMBERS[kind]}", body))
        if kind != _BYTES:
            raise UnsupportedParquetError("a column is neither text nor a number")
        texts, start = [], 0
        for _ in range(count):
            end = start + 4 + int.from_bytes(body[start : start + 4], "little")
            if end > len(body):
                raise ValueError("a text is cut off")
            texts.append(body[start + 4 : end].decode("utf-8"))
            start = end
        return texts


class _Thrift:
    """Reads Thrift's compact protocol."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._at = data, start

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        part = self._data[self._at : self._at + count]
        if len(part) < count or self._at < 0:
            raise ValueError("the parquet file is cut off")
        self._at += count
        return part

    def varint(self) -> int:
        """Return an unsigned number of up to 64 bits, seven in each byte."""
        number = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise ValueError("a number has too many bytes")

    def struct(self, depth: int = 0) -> tuple[Thrift, int]:
        """Return the fields of a struct, and where the next byte is."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self.take(1)[0]:
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = (
                head & 15 == 1 if head & 15 in (1, 2) else self._value(head & 15, depth)
            )
        return fields, self._at

    def _signed(self) -> int:
        number = self.varint()
        return (number >> 1) ^ -(number & 1)

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise ValueError("the parquet file's description is nested too deeply")
        match kind:
            case 1 | 2 | 3:  # in a list, a flag is a byte
                return self.take(1)[0]
            case 4 | 5 | 6:
                return self._signed()
            case 7:
                return self.take(8)
            case 8:
                return self.take(self.varint())
            case 9 | 10:
                head = self.take(1)[0]
                count = self.varint() if head >> 4 == 15 else head >> 4
                if count > len(self._data) - self._at:
                    raise ValueError("a list is cut off")
                return [self._value(head & 15, depth + 1) for _ in range(count)]
            case 12:
                return self.struct(depth + 1)[0]
            case _:
                raise ValueError("the parquet file's description has an unknown type")
