"""Family base: tensors that replace the base's own, compared with the base.

Complete modules, token rows and DoRA magnitudes start as the base's and are trained from there;
adapted tables are copied. Only some rows of the base are read, except for a copied table.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.base_files import sample_rows
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.safetensors_file import READABLE, SafetensorsFile, TensorInfo
from phi3_lora_qa.adapter.tensor_names import Part, TensorKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MAX_SIZE = 100.0
"""The largest ratio of the norms of a complete module or token row and the base's, or its inverse.

Adam changes an element by its learning rate in a step. A thousand steps of 2e-4 in one direction
add 0.2 to elements of about 0.03 in Phi-3's head: a factor of seven.
"""

LOST = 1e-6
"""A row whose norm is a smaller share of the base's counts as zero; training changes it by more."""

MIN_SIMILARITY = 4.0
"""The least similarity of a complete module's rows to the base's, in standard deviations.

It is the mean difference between the cosines of n rows with their own base rows and with other base
rows, divided by the deviation of the latter. For unrelated rows, and for the base's rows in another
order, it is normal with a deviation of 1. The mean cosine divided by its deviation for unrelated
rows, 1/sqrt(n · d), must reach the same limit, because rows with permuted columns may all have
become similar. The mean of all rows is subtracted first (in a head, the tokens that never occurred
as answers share it). A head that moved by ten times its own size, each row in its own direction,
still has 44 on Phi-3-mini (n = 64, d = 3072).
"""

MIN_NORM_COSINE = 0.3
"""The least cosine of a norm's weights with the base's; they are positive and change little."""

_BLOCK_NUMBERS = 1 << 20
_MOST_COMPARED = 256
_APART, _ALIKE = 0.5, 0.9
"""The largest cosine of rows of two tokens, and the least cosine of rows of the same token."""


@rule(
    "base-embedding-copy",
    severity=Severity.ERROR,
    title="The embedding table in the file equals the base's",
    why="peft saves a copy of the table when the table is adapted, and loads it into the base. A "
    "different table changes the base for everyone who uses it afterwards.",
    fix="use the base from training, or remove the base_layer.weight tensors from the file",
    needs=["expected tensors", "base weights"],
)
def embedding_copy(context: LintContext) -> Iterator[Violation]:
    """Compare base_layer.weight with the base's tensor; only rounding may differ."""
    for key, ours, file, theirs in _pairs(context, Part.BASE_WEIGHT):
        if ours.shape != theirs.shape:
            yield Violation(key.name, "the shape differs from that of the base's table")
        elif not _same(context, ours, file, theirs):
            yield Violation(key.name, f"the table differs from the base's {theirs.name}")


@rule(
    "base-saved-module",
    severity=Severity.ERROR,
    title="Every complete module in the file was trained starting from the base's",
    why="A module in modules_to_save replaces the base's. If its size differs, its rows are zero "
    "or it has nothing in common with the base's, it was damaged before or while it was saved.",
    fix="copy the tensor from the training output again, and pass the base used in training",
    needs=["expected tensors", "base weights"],
)
def saved_module(context: LintContext) -> Iterator[Violation]:
    """Compare the size and direction of some rows with the base's."""
    import numpy as np

    for key, info, file, theirs in _pairs(context, Part.WEIGHT):
        found = context.tensor_stats.get(key.canonical)
        if not found or not found.is_finite or found.is_zero or info.shape != theirs.shape:
            continue
        rows = sample_rows(info.shape[0]) if len(info.shape) == 2 else (slice(0, info.size),)
        ours = np.concatenate([context.weights.tensor(key.name, part) for part in rows])
        base = np.concatenate([file.tensor(theirs.name, part) for part in rows])
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is too large
            reason = _why_unrelated(ours.astype(np.float64), base.astype(np.float64))
        if reason:
            yield Violation(key.name, reason)


@rule(
    "base-saved-unchanged",
    severity=Severity.WARNING,
    title="Every complete module in the file was trained",
    why="A module in modules_to_save that equals the base's bit for bit was not trained: its "
    "training had no effect, or a copy of the base was saved. It takes the memory of a complete "
    "module, and a server loads it for each adapter.",
    fix="remove the module from modules_to_save, and its tensor from the file; if it was meant to "
    "be trained, check that the optimizer has its parameters, and train again",
    needs=["expected tensors", "base weights"],
)
def saved_unchanged(context: LintContext) -> Iterator[Violation]:
    """Compare every number of a complete module with the base's, up to rounding.

    A module is read completely only if its first rows are equal. A norm is skipped: it is small,
    and rounding can undo its training.
    """
    for key, info, file, theirs in _pairs(context, Part.WEIGHT):
        is_matrix = len(info.shape) == 2 and info.shape == theirs.shape
        if is_matrix and _same(context, info, file, theirs):
            size = (info.stop - info.start) / 2**20
            yield Violation(
                key.name, f"it equals the base's in every number, and takes {size:.1f} MiB"
            )


@rule(
    "base-token-rows",
    severity=Severity.ERROR,
    title="Trained token rows are about as large as the other rows of the table",
    why="A trained row replaces the base's. A row of zeros removes the token's meaning, and a "
    "huge one drowns out all others.",
    fix="copy the rows from the training output again",
    needs=["expected tensors", "base weights"],
)
def token_rows(context: LintContext) -> Iterator[Violation]:
    """Compare the norms of trained rows with those of sampled rows of the table.

    A row that is zero is compared with the base's row. Rows that have swapped places were saved
    in another order than the tokens.
    """
    import numpy as np

    for key, info, file, theirs in _pairs(context, Part.TOKENS):
        found = context.tensor_stats.get(key.canonical)
        tokens = _tokens(context, key.module)
        fits = len(info.shape) == len(theirs.shape) == 2 and info.shape[1] == theirs.shape[1]
        if not found or not found.is_finite or not fits or info.shape[0] != len(tokens):
            continue
        table = [file.tensor(theirs.name, part) for part in sample_rows(theirs.shape[0])]
        usual = float(_row_norms(np.concatenate(table)).max())
        for token, size in zip(tokens, _row_norms(context.weights.tensor(key.name)), strict=True):
            own = slice(token, token + 1)  # empty for a token beyond the table
            if size > MAX_SIZE * usual > 0:
                yield Violation(
                    key.name,
                    f"the norm of token {token}'s row is {size:.3g}, but those of the table are at "
                    f"most {usual:.3g}",
                )
            elif (
                size <= LOST * usual
                and (_row_norms(file.tensor(theirs.name, own)) > LOST * usual).any()
            ):
                yield Violation(key.name, f"the row of token {token} is zero, unlike the base's")
        if moved := _exchanged(context, key, tokens, file, theirs):
            shown = ", ".join(map(str, moved[:5]))
            yield Violation(
                key.name, f"the rows of {len(moved)} tokens have swapped places: {shown}"
            )


def _exchanged(
    context: LintContext,
    key: TensorKey,
    tokens: tuple[int, ...],
    file: SafetensorsFile,
    info: TensorInfo,
) -> list[int]:
    """Return the tokens whose row is similar to another displaced token's row in the base."""
    import numpy as np

    if not 1 < len(tokens) <= _MOST_COMPARED or max(tokens) >= info.shape[0]:
        return []
    theirs = np.concatenate([file.tensor(info.name, slice(t, t + 1)) for t in tokens])
    ours = context.weights.tensor(key.name)
    mine, theirs = (
        rows / np.maximum(_row_norms(rows), 1e-30)[:, None]
        for rows in (ours.astype(np.float64), theirs.astype(np.float64))
    )
    cosines = mine @ theirs.T
    away = cosines.diagonal() < _APART
    taken = (cosines > _ALIKE) & away[:, None] & away[None, :]
    return [token for token, row in zip(tokens, taken, strict=True) if row.any()]


Pair = tuple[TensorKey, TensorInfo, SafetensorsFile, TensorInfo]


def _pairs(context: LintContext, part: Part) -> Iterator[Pair]:
    """Yield each readable tensor of a part with its header entry, and the base's weight."""
    for key in context.keys.values():
        place = context.base.tensor(key.module) if key.part is part else None
        info = context.info(key)
        if place is not None and info.dtype in READABLE:
            yield key, info, *place


def _same(
    context: LintContext, ours: TensorInfo, file: SafetensorsFile, theirs: TensorInfo
) -> bool:
    """Whether one of two tables equals the other, rounded to its own dtype.

    The table may have been rounded before it was saved (training in float16 on a bfloat16 base
    loses small numbers), and the base may have been converted since.
    """
    import numpy as np

    here = there = True
    rows = max(1, _BLOCK_NUMBERS * ours.shape[0] // max(ours.size, 1))
    for start in range(0, ours.shape[0], rows):
        block = slice(start, start + rows)
        mine = context.weights.tensor(ours.name, block)
        base = file.tensor(theirs.name, block)
        here = here and np.array_equal(mine, _rounded(base, ours.dtype))
        there = there and np.array_equal(_rounded(mine, theirs.dtype), base)
        if not here and not there:
            return False
    return True


def _rounded(array: "NDArray[np.floating]", dtype: str) -> "NDArray[np.floating]":
    import numpy as np

    if dtype == "BF16":
        bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
        # Round half to even on the upper 16 bits, as casting to bfloat16 does.
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)
        return rounded.view(np.float32)
    with np.errstate(over="ignore"):
        return array.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def _why_unrelated(ours: "Numbers", base: "Numbers") -> str:
    """Say why sampled rows of a module (or a norm) cannot come from the base's; "" if they can."""
    import numpy as np

    size, usual = float(np.linalg.norm(ours)), float(np.linalg.norm(base))
    if usual == 0:
        return ""
    if ours.ndim == 1:
        cosine = float(ours @ base / max(size * usual, 1e-300))
        if not cosine > MIN_NORM_COSINE:
            return f"the cosine with the base's is {cosine:.2f}"
    elif (lost := _row_norms(ours) < LOST * _row_norms(base)).any():
        return f"{int(lost.sum())} of {len(ours)} sampled rows are zero, but the base's are not"
    if not 1 / MAX_SIZE < size / usual < MAX_SIZE:
        return f"its norm is {size / usual:.3g} times the base's"
    if ours.ndim == 2 and (similarity := _similarity(ours, base)) < MIN_SIMILARITY:
        return (
            f"the rows are not similar to the base's ({similarity:.1f} standard deviations, at "
            f"least {MIN_SIMILARITY:g} are expected)"
        )
    return ""


def _row_norms(rows: "NDArray[np.floating]") -> "Numbers":
    import numpy as np

    with np.errstate(over="ignore"):
        return np.asarray(np.linalg.norm(rows.astype(np.float64), axis=1), dtype=np.float64)


def _similarity(ours: "Numbers", base: "Numbers") -> float:
    """Return how similar rows are to the base's, in standard deviations (see MIN_SIMILARITY)."""
    import numpy as np

    mine, theirs = (rows - rows.mean(axis=0) for rows in (ours, base))
    used = (mine.any(axis=1)) & (theirs.any(axis=1))
    count = int(used.sum())
    if count < 3:
        return float("inf")
    mine, theirs = (rows[used] / _row_norms(rows[used])[:, None] for rows in (mine, theirs))
    cosines = mine @ theirs.T
    others = cosines[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    ahead = float((cosines.diagonal() - others.mean(axis=1)).mean())
    deviation = float(np.sqrt(others.var(axis=1).mean()))
    chance = float(cosines.diagonal().mean()) * math.sqrt(count * ours.shape[1])
    return min(chance, ahead / deviation * math.sqrt(count)) if deviation > 0 else chance


def _tokens(context: LintContext, module: str) -> tuple[int, ...]:
    for name, tokens in context.config.trainable_token_indices.items():
        if matches_suffix(module, name):
            return tokens
    return ()
