"""Parses tokenizer.model, the vocabulary of SentencePiece, without the sentencepiece library.

The file is a protocol buffer (sentencepiece_model.proto, message ModelProto): the repeated field 1
is a piece, with the text in field 1, the score in field 2 and the type in field 3.
"""

import itertools
import struct
from collections.abc import Iterator

from phi3_lora_qa.adapter.file_kind import HEAD_BYTES, foreign_kind
from phi3_lora_qa.errors import AdapterError

PIECES = "tokenizer.model"
MAX_PIECES_BYTES = 16 << 20
MAX_FIELDS = 600_000
"""Four per piece for 150,000 pieces; Phi-3 has 32,000. The file size does not bound the time."""

Piece = tuple[str, float, int]
_NORMAL = 1


def parse_pieces(data: bytes) -> tuple[Piece, ...]:
    """Return every piece as (text, score, type); the id of a piece is its index.

    Raises:
        AdapterError: The file is not a SentencePiece model.
    """
    if data and (kind := foreign_kind(PIECES, data[:HEAD_BYTES])):
        raise AdapterError(f"{PIECES} is {kind}", kind.fix)
    try:
        count = itertools.count(1)
        fields = _fields(data, count)
        pieces = tuple(_piece(value, count) for field, value in fields if field == 1)
    except (ValueError, IndexError, struct.error):
        pieces = ()
    if not pieces:
        raise _invalid_model()
    return pieces


def parse_other_fields(data: bytes) -> tuple[tuple[int, bytes | int], ...]:
    """Return all other fields, which contain the training and the normalization settings.

    Raises:
        AdapterError: The file is not a SentencePiece model.
    """
    try:
        found = _fields(data, itertools.count(1))
        return tuple((field, value) for field, value in found if field != 1)
    except (ValueError, IndexError) as error:
        raise _invalid_model() from error


def _piece(data: bytes | int, count: Iterator[int]) -> Piece:
    text, score, kind = "", 0.0, _NORMAL
    if isinstance(data, int):
        raise ValueError("a piece is a number")  # noqa: TRY004 - an error of the file
    for field, value in _fields(data, count):
        if field == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif field == 2 and isinstance(value, bytes):
            score = struct.unpack("<f", value)[0]
        elif field == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _fields(data: bytes, count: Iterator[int]) -> Iterator[tuple[int, bytes | int]]:
    """Yield (field, value) of a message; the fields must cover all of its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key < 8 or next(count) > MAX_FIELDS:
            raise ValueError("field number 0, or too many fields")
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case _:
                raise ValueError("unknown wire type")
        if at + size > len(data):
            raise ValueError("a field extends beyond the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has too many bytes")


def _invalid_model() -> AdapterError:
    return AdapterError(f"{PIECES} is not a SentencePiece model", "save the tokenizer again")
