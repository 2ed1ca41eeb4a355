"""Writers of safetensors files and SentencePiece models.

They can also write invalid files, which the libraries cannot.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Raw = tuple[str, tuple[int, ...], bytes]
"""A tensor as dtype, shape and bytes, for dtypes that numpy does not have."""

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8", "int32": "I32"}


def bf16(array: Array) -> Raw:
    """Convert to bfloat16 by truncation, which is good enough for test data."""
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4") >> 16
    return "BF16", array.shape, bits.astype("<u2").tobytes()


def pack(tensors: Mapping[str, Array | Raw], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file."""
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    data = bytearray()
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            dtype, shape, content = tensor
        else:
            dtype, shape, content = _DTYPES[str(tensor.dtype)], tensor.shape, tensor.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += content
    return pack_header(header, bytes(data))


def pack_header(header: Any, data: bytes = b"") -> bytes:
    """Return a file with this header, valid or not; bytes are used unchanged."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def pieces_file(pieces: list[tuple[str, float, int]]) -> bytes:
    """Return a SentencePiece model of these pieces (text, score, type)."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    inner = [
        field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
        for text, score, kind in pieces
    ]
    return b"".join(field(1, piece) for piece in inner) + field(2, b"\x20\x01")
