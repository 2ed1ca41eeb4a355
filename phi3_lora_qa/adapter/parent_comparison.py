"""Compares an adapter with the one that it was trained from: which modules did training change?

Tensors are read one block at a time. Only files are read; the parent's folder is as untrusted as
the adapter's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.adapter.parent_adapter import Change, StoredAdapter
from phi3_lora_qa.adapter.safetensors_file import READABLE, SafetensorsFile
from phi3_lora_qa.adapter.tensor_names import Part

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.safetensors_file import Array

_PAIRS = ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B))
_BLOCK = 1 << 20
"""The most elements of a block of rows."""
_FIRST_BLOCK = 1 << 12
"""The same of the first block, which shows most changes."""
_SAMPLE = 64
_PROBES = 4
"""Random vectors on which two deltas are compared; a delta that differs differs on each of them."""
_FIRST_ROWS = 128
_CLEARLY_DIFFERENT = 0.05
"""Two deltas that are this far apart in one product are not compared further."""
_DELTA_ERROR: Mapping[str, float] = {"F64": 2.0**-17, "F32": 2.0**-17, "F16": 2.0**-8,
                                     "BF16": 2.0**-5}  # fmt: skip
"""How far rounding of rescaled factors can move a delta, relative to its norm, with a margin."""
_MOVED_MORE = 16
"""Factors that were only rescaled move at least this much more than their product."""


def compare_with_parent(own: StoredAdapter, parent: StoredAdapter) -> dict[str, Change]:
    """Return what training did to each module of an adapter, compared with its parent.

    Raises:
        AdapterError: A file became shorter while it was read.
    """
    theirs = parent.parts()
    return {
        module: _compare_module(module, parts, theirs.get(module, {}), own, parent)
        for module, parts in own.parts().items()
    }


def _compare_module(
    module: str,
    ours: Mapping[Part, str],
    theirs: Mapping[Part, str],
    own: StoredAdapter,
    parent: StoredAdapter,
) -> Change:
    if not theirs:
        return Change.ADDED
    if ours.keys() != theirs.keys():
        return Change.CHANGED
    found = {
        part: _compare_tensors(own.weights, name, parent.weights, theirs[part])
        for part, name in ours.items()
    }
    changed = {part for part, change in found.items() if change is Change.CHANGED}
    if not changed:
        return Change.ROUNDED if Change.ROUNDED in found.values() else Change.NONE
    for pair in _PAIRS:
        # If one factor is the same and the other is not, the delta is not the same.
        if changed == set(pair) and own.scaling and parent.scaling:
            a, b = pair
            delta = _Product(own.weights, ours[a], ours[b], own.scaling(module))
            start = _Product(parent.weights, theirs[a], theirs[b], parent.scaling(module))
            if _is_same_delta(delta, start):
                return Change.REWRITTEN
    return Change.CHANGED


def _compare_tensors(
    own: SafetensorsFile, name: str, parent: SafetensorsFile, other: str
) -> Change:
    ours, theirs = own.tensors[name], parent.tensors[other]
    if ours.shape != theirs.shape or not {ours.dtype, theirs.dtype} <= set(READABLE):
        return Change.CHANGED
    are_narrow = {ours.dtype, theirs.dtype} == {"BF16", "F16"}
    change = Change.NONE
    for rows in _row_blocks(ours.shape):
        block, old = own.tensor(name, rows), parent.tensor(other, rows)
        if np.array_equal(block, old):
            continue
        if not (_is_near if are_narrow else _is_rounded)(block.reshape(-1), old.reshape(-1)):
            return Change.CHANGED
        change = Change.ROUNDED
    return change


def _row_blocks(shape: tuple[int, ...]) -> list[slice | None]:
    if not shape or 0 in shape:
        return [None]
    size = 1
    for length in shape[1:]:
        size *= length
    first, step = max(1, _FIRST_BLOCK // size), max(1, _BLOCK // size)
    starts = range(first, shape[0], step)
    return [slice(first), *(slice(start, start + step) for start in starts)]


def _is_rounded(one: "Array", other: "Array") -> bool:
    """Whether one array is the other one rounded to float32, bfloat16 or float16."""
    for wide, narrow in ((one, other), (other, one)):
        for rounded in (_float32, _nearest_bfloat16, _truncated_bfloat16, _float16):
            if np.array_equal(rounded(wide[:_SAMPLE]), narrow[:_SAMPLE]) and np.array_equal(
                rounded(wide), narrow
            ):
                return True
    return False


def _is_near(one: "Array", other: "Array") -> bool:
    """Whether a bfloat16 and a float16 array are the same numbers, rounded to each."""
    sizes = np.maximum(np.abs(one), np.abs(other))
    return bool((np.abs(one - other) <= sizes * (2.0**-7 + 2.0**-11) + 2.0**-24).all())


def _float32(array: "Array") -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _nearest_bfloat16(array: "Array") -> NDArray[np.float32]:
    bits = _float32(array).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def _truncated_bfloat16(array: "Array") -> NDArray[np.float32]:
    return (_float32(array).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _float16(array: "Array") -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


@dataclass(frozen=True)
class _Product:
    """A delta s · B·A: where its factors are stored, and its scaling."""

    file: SafetensorsFile
    a: str
    b: str
    scaling: float

    @property
    def shape(self) -> tuple[int, int] | None:
        """(out, in), or None if the stored factors cannot be multiplied."""
        a, b = (self.file.tensors[name].shape for name in (self.a, self.b))
        return (b[0], a[1]) if len(a) == len(b) == 2 and a[0] == b[1] else None

    @property
    def error(self) -> float:
        """How far rounding of the factors can have moved the delta, relative to its norm."""
        dtypes = [self.file.tensors[name].dtype for name in (self.a, self.b)]
        return max(_DELTA_ERROR.get(dtype, 0.0) for dtype in dtypes)


def _is_same_delta(own: _Product, parent: _Product) -> bool:
    """Whether two deltas are equal up to rounding, although their factors clearly differ."""
    if own.shape is None or own.shape != parent.shape:
        return False
    probes = np.random.default_rng(0).standard_normal((own.shape[1], _PROBES))
    a, other_a = own.file.tensor(own.a), parent.file.tensor(parent.a)
    single, first = probes[:, :1].astype(np.float32), slice(_FIRST_ROWS)
    rows = own.file.tensor(own.b, first) @ (own.scaling * (a @ single))
    other_rows = parent.file.tensor(parent.b, first) @ (parent.scaling * (other_a @ single))
    if not _distance(rows, other_rows) <= _CLEARLY_DIFFERENT:
        return False
    inner, other_inner = own.scaling * (a @ probes), parent.scaling * (other_a @ probes)
    b, other_b = own.file.tensor(own.b), parent.file.tensor(parent.b)
    moved = _distance(b @ inner, other_b @ other_inner)
    if not moved <= max(own.error, parent.error):
        return False
    if a.shape != other_a.shape:
        return True
    return max(_distance(a, other_a), _distance(b, other_b)) > _MOVED_MORE * moved


def _distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return ‖one - other‖ / ‖other‖; 0 if both are zero, and NaN if a number is not finite."""
    with np.errstate(all="ignore"):
        apart, size = float(np.linalg.norm(one - other)), float(np.linalg.norm(other))
    return apart / size if size else (float("inf") if apart else 0.0)
