"""A strict parser of the safetensors format: it reads the header, then single tensors on request.

The format (github.com/huggingface/safetensors): eight bytes with the header length N in little
endian, N bytes of JSON, then the data. The reference parser accepts duplicate keys, so two readers
may see different content; this parser rejects them.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from phi3_lora_qa.adapter.file_kind import HEAD_BYTES, foreign_kind
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import AdapterError, escape
from phi3_lora_qa.reading import open_regular

if TYPE_CHECKING:  # numpy is loaded when the first tensor is read; headers do not need it
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 16384
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 36
_AGAIN = "save the adapter again, because the file is damaged or incomplete"
_BASE_AGAIN = "download the base again, because the file is damaged or incomplete"

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits per element of each dtype of the format."""

READABLE = ("F64", "F32", "F16", "BF16")
"""The dtypes that `SafetensorsFile.tensor` can decode."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor of the header; ``start`` and ``stop`` are byte offsets into the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class SafetensorsFile:
    """A checked header, and a function that opens the file. It keeps no data."""

    label: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    size: int
    opener: Callable[[], RawIOBase]

    def tensor(self, name: str, rows: slice | None = None) -> "Array":
        """Read one tensor, or some of its rows, as float32 (float64 if the file has F64).

        The file is read, not mapped: truncating a mapped file kills the process.

        Raises:
            AdapterError: The dtype is not one of `READABLE`, or the file became shorter.
        """
        import numpy as np

        info = self.tensors[name]
        if info.dtype not in READABLE:
            raise AdapterError(
                f"{escape(name)} in {self.label} has the unsupported dtype {info.dtype}",
                "save the adapter in float32, bfloat16 or float16",
            )
        item = BITS[info.dtype] // 8
        start, stop, shape = info.start, info.stop, info.shape
        if rows is not None and shape:
            first, last, _ = rows.indices(shape[0])
            stride = item * math.prod(shape[1:])
            shape = (max(last - first, 0), *shape[1:])
            start, stop = (
                info.start + first * stride,
                info.start + first * stride + (shape[0] * stride),
            )
        raw = np.empty(stop - start, dtype=np.uint8)
        with self.opener() as handle:
            _read_exactly(handle, raw, start, self.label)
        return _decode(raw, info.dtype).reshape(shape)


def open_safetensors(
    opener: Callable[[], RawIOBase], label: str, *, error: type[Exception] = AdapterError
) -> SafetensorsFile:
    """Read and check the header of a safetensors file.

    Args:
        opener: Opens the file for reading; called once for the header and once for each tensor.
        label: The file name for messages.
        error: The error class to raise: a base's file is not an adapter.

    Raises:
        AdapterError: (or ``error``) The header is invalid, or does not match the file size.
    """
    label = escape(label)
    try:
        with opener() as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(0)
            header_bytes = _read_header(handle, size, label)
        tensors, metadata = _parse(header_bytes, size, label)
    except AdapterError as problem:
        if error is AdapterError:
            raise
        raise error(f"the base cannot be read: {problem.what}; {_BASE_AGAIN}") from problem
    return SafetensorsFile(
        label=label, tensors=tensors, metadata=metadata, size=size, opener=opener
    )


def open_path(path: Path, *, error: type[Exception]) -> SafetensorsFile:
    """Open a trusted safetensors file; links are followed, as a model cache needs."""
    return open_safetensors(lambda: open_regular(path), path.name, error=error)


def _read_header(handle: RawIOBase, size: int, label: str) -> bytes:
    start = handle.read(HEAD_BYTES) or b""
    if kind := foreign_kind(".safetensors", start):
        raise AdapterError(f"{label} is {kind}", kind.fix)
    if len(start) < 8:
        raise AdapterError(f"{label} has only {len(start)} bytes", _AGAIN)
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise AdapterError(
            f"{label} declares a header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed",
            _AGAIN,
        )
    if 8 + length > size:
        raise AdapterError(f"{label} ends within its header: {size} bytes of {8 + length}", _AGAIN)
    handle.seek(8)
    header = handle.read(length) or b""
    if len(header) != length or not header.startswith(b"{"):
        raise AdapterError(f"{label} has no JSON header", _AGAIN)
    return header


def _parse(header: bytes, size: int, label: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    raw = parse_object(header, where=f"the header of {label}", max_bytes=MAX_HEADER_BYTES)
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise AdapterError(f"{label}: __metadata__ must map strings to strings", _AGAIN)
    if len(raw) > MAX_TENSORS:
        raise AdapterError(
            f"{label} has {len(raw)} tensors, at most {MAX_TENSORS} are allowed",
            "save only the adapter, without the model",
        )
    data = 8 + len(header)
    tensors = {name: _tensor(name, entry, data, label) for name, entry in raw.items()}
    position = data
    for info in sorted(tensors.values(), key=lambda t: (t.start, t.stop)):
        if info.start != position:
            fault = "overlap" if info.start < position else "leave a gap"
            raise AdapterError(f"{label}: tensors {fault} at {escape(info.name)}", _AGAIN)
        position = info.stop
    if position != size:
        fault = (
            f"{position - size} bytes are missing"
            if position > size
            else (f"{size - position} bytes follow the last tensor")
        )
        raise AdapterError(f"{label}: {fault}", _AGAIN)
    return tensors, metadata


def _tensor(name: str, entry: Any, data: int, label: str) -> TensorInfo:
    where = f"{label}: the header entry of {escape(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise AdapterError(f"{where} must have dtype, shape and data_offsets", _AGAIN)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise AdapterError(f"{where} has an unknown dtype", _AGAIN)
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise AdapterError(f"{where} has an impossible shape", _AGAIN)
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise AdapterError(f"{where} has impossible data_offsets", _AGAIN)
    if math.prod(shape) * BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise AdapterError(f"{where}: shape and dtype do not match data_offsets", _AGAIN)
    if math.prod(filter(None, shape)) > MAX_ELEMENTS:
        # With a dimension of 0 the byte count is 0, but numpy also checks the other dimensions.
        raise AdapterError(f"{where} has an impossible shape", _AGAIN)
    start, stop = (data + offset for offset in offsets)
    return TensorInfo(name=name, dtype=dtype, shape=tuple(shape), start=start, stop=stop)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 2**63 for item in value
    )


def _read_exactly(handle: RawIOBase, buffer: "NDArray[np.uint8]", start: int, label: str) -> None:
    view = buffer.data
    done = 0
    handle.seek(start)
    while done < len(view):
        count = handle.readinto(view[done : done + (1 << 30)])
        if not count:
            raise AdapterError(f"{label} became shorter while it was being read", _AGAIN)
        done += count


def _decode(raw: "NDArray[np.uint8]", dtype: str) -> "Array":
    import numpy as np

    if dtype == "BF16":
        # A bfloat16 is the upper half of the float32 of the same value.
        wide: NDArray[np.uint32] = np.left_shift(raw.view("<u2"), 16, dtype=np.uint32)
        return wide.view(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    return raw.view("<f8") if dtype == "F64" else raw.view("<f4")
