"""Family base, its rules on what takes the place of the base's own numbers.

Whole modules, token rows and DoRA's magnitudes begin as the base's and are trained from there;
tables that are adapted are copied. Of the base some rows are read, of a copied table all.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.base_files import BaseModule, ModuleKind, sample_rows
from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.adapter.safetensors_file import READABLE, SafetensorsFile, TensorInfo
from phi3_lora_qa.adapter.tensor_names import Part, TensorKey, tensor_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MAX_SIZE = 100.0
"""How many times the base's norm, or a hundredth of it, a whole module or token row can have.

Adam moves an element by its learning rate in a step. A thousand steps of 2e-4, all one way, add 0.2
to elements of about 0.03 in Phi-3's head: seven times.
"""

LOST = 1e-6
"""A row of so small a share of the base's is zero: training moves by more."""

MIN_LIKENESS = 4.0
"""How like the base's rows those of a whole module are at least, in deviations of chance.

That is how much larger the cosines of n rows with their own are than those with other rows, in the
mean, over the deviation of the latter: for unrelated rows, and for the base's own in another order,
it is normal with a deviation of 1. The mean itself over the deviation of chance, 1/sqrt(n · d), is
held to the same, as rows whose columns were mixed up may all have become alike. What all rows were
moved by together (in a head: the tokens that were never an answer) is taken out first. A head moved
by ten times its own size, each row its own way, still has 44 on Phi-3-mini (n = 64, d = 3072).
"""

MIN_NORM_COSINE = 0.3
"""The same for a norm, as a cosine: its weights are positive and stay near the base's."""

MAGNITUDE_RANGE = 4.0
"""How far from the rows' norms, as a factor, a healthy adapter's magnitudes are in the median."""

MAGNITUDE_ROW_RANGE = 16.0
"""The same for one magnitude; small rows, which move far for their size, are held to the median."""

MIN_ROWS, MIN_SPREAD, MIN_CORRELATION = 32, 0.02, 0.4
"""From how many rows on, whose norms differ by how much, magnitudes must follow the norms.

Trained ones do by 0.99 and more; of 64 rows in another order, one in 2,000 does by more than 0.4.
"""

_BLOCK_ROWS = 4096
_TABLE_ROWS = 64
_MOST_COMPARED = 256
_APART, _ALIKE = 0.5, 0.9
"""Cosines of rows that are no longer one token's, and of rows that still are."""


@rule(
    "base-embedding-copy",
    severity=Severity.ERROR,
    title="The base's embedding table in the file is the base's own",
    why="peft saves a copy of the table when it is adapted, and loads it into the base. Another "
    "table there changes the base for everyone who uses it afterwards.",
    fix="use the base of the training, or remove the base_layer.weight tensors from the file",
    needs=["implied", "base weights"],
)
def embedding_copy(context: LintContext) -> Iterator[Violation]:
    """Compare base_layer.weight with the base's tensor: one must be the other, perhaps rounded."""
    for key, ours, file, theirs in _pairs(context, Part.BASE_WEIGHT):
        if ours.shape != theirs.shape:
            yield Violation(key.name, "its shape is not that of the base's table")
        elif not _same(context, ours, file, theirs):
            yield Violation(key.name, f"it differs from the base's {theirs.name}")


@rule(
    "base-saved-module",
    severity=Severity.ERROR,
    title="A whole module in the file is the base's, trained further",
    why="A module in modules_to_save takes the place of the base's. One of another size, with rows "
    "of zeros, or that has nothing in common with the base's was lost on the way to the file.",
    fix="take the tensor from the training output again, and give the base of the training",
    needs=["implied", "base weights"],
)
def saved_module(context: LintContext) -> Iterator[Violation]:
    """Compare size and direction of some rows with the base's."""
    import numpy as np

    for key, info, file, theirs in _pairs(context, Part.WEIGHT):
        found = context.measures.get(key.canonical)
        if not found or not found.is_finite or found.is_zero or info.shape != theirs.shape:
            continue
        rows = sample_rows(info.shape[0]) if len(info.shape) == 2 else (slice(0, info.size),)
        ours = np.concatenate([context.weights.tensor(key.name, part) for part in rows])
        base = np.concatenate([file.tensor(theirs.name, part) for part in rows])
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is too large
            reason = _strange(ours.astype(np.float64), base.astype(np.float64))
        if reason:
            yield Violation(key.name, reason)


@rule(
    "base-token-rows",
    severity=Severity.ERROR,
    title="Trained token rows are about as large as the table's",
    why="A trained row takes the place of the base's: a row of zeros makes its token mean nothing, "
    "a huge one drowns all others.",
    fix="take the rows from the training output again",
    needs=["implied", "base weights"],
)
def token_rows(context: LintContext) -> Iterator[Violation]:
    """Compare the norms of trained rows with those of some of the table's, zeros with their own.

    Rows that are each at another one's place were saved in another order than the tokens.
    """
    import numpy as np

    for key, info, file, theirs in _pairs(context, Part.TOKENS):
        found = context.measures.get(key.canonical)
        tokens = _tokens(context, key.module)
        fits = len(info.shape) == len(theirs.shape) == 2 and info.shape[1] == theirs.shape[1]
        if not found or not found.is_finite or not fits or info.shape[0] != len(tokens):
            continue
        table = [file.tensor(theirs.name, part) for part in sample_rows(theirs.shape[0])]
        usual = float(_row_norms(np.concatenate(table)).max())
        for token, size in zip(tokens, _row_norms(context.weights.tensor(key.name)), strict=True):
            own = slice(token, token + 1)  # empty for a token beyond the table
            if size > MAX_SIZE * usual > 0:
                message = f"token {token}'s row has the norm {size:.3g}, the table's {usual:.3g}"
                yield Violation(key.name, message)
            elif (
                size <= LOST * usual
                and (_row_norms(file.tensor(theirs.name, own)) > LOST * usual).any()
            ):
                yield Violation(key.name, f"token {token}'s row is zero, the base's is not")
        if moved := _exchanged(context, key, tokens, file, theirs):
            shown = ", ".join(map(str, moved[:5]))
            yield Violation(
                key.name, f"the rows of {len(moved)} tokens are at others' places: {shown}"
            )


def _exchanged(
    context: LintContext,
    key: TensorKey,
    tokens: tuple[int, ...],
    file: SafetensorsFile,
    info: TensorInfo,
) -> list[int]:
    """Return the tokens whose row is another listed token's in the base, and whose own is too."""
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


@rule(
    "base-dora-magnitude",
    severity=Severity.ERROR,
    title="DoRA's magnitudes are about the norms of the base's rows",
    why="They begin as the norms of the base's own rows and move little: others were trained on "
    "another base, or were scaled, and rescale every output of their module.",
    fix="give the base of the training, or take the magnitudes from the training output again",
    needs=["implied", "base weights"],
)
def dora_magnitude(context: LintContext) -> Iterator[Violation]:
    """Compare m with the norms of W + delta, for some rows of W and the extremes of m."""
    import numpy as np

    for module in context.implied.targeted.values():
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is too large
            pair = _magnitudes(context, module)
            reason = (_unlike(*pair[:2]) or _out_of_order(*pair)) if pair else ""
        if reason:
            yield Violation(module.name, reason)


def _unlike(magnitudes: "Numbers", norms: "Numbers") -> str:
    """Say why magnitudes cannot come from these norms; "" if they can."""
    import numpy as np

    ratio = float(np.median(magnitudes / np.maximum(norms, 1e-30)))
    if not 1 / MAGNITUDE_RANGE < ratio < MAGNITUDE_RANGE:
        return f"its magnitudes are about {ratio:.3g} times its rows' norms"
    middle = float(np.median(norms))
    large = magnitudes > MAGNITUDE_ROW_RANGE * np.maximum(norms, middle)
    small = (magnitudes * MAGNITUDE_ROW_RANGE < norms) & (2 * norms > middle)
    wrong = np.flatnonzero(large | small)
    if not wrong.size:
        return ""
    return f"a magnitude is {magnitudes[wrong[0]]:.3g} where its norm is {norms[wrong[0]]:.3g}"


def _out_of_order(magnitudes: "Numbers", norms: "Numbers", own: "Numbers") -> str:
    """Say whether magnitudes are spread as the rows' norms are, and do not follow them.

    Training that moves them apart spreads them more; in another order, or from another layer, they
    are spread alike. ``own`` are the norms without the delta; of a table there are none.
    """
    import numpy as np

    if len(own) < MIN_ROWS or not (magnitudes > 0).all():
        return ""
    m = np.log(magnitudes)
    for theirs in (np.log(np.maximum(norms, 1e-30)), np.log(np.maximum(own, 1e-30))):
        spread_of_both = m.std(), theirs.std()
        if not max(MIN_SPREAD, spread_of_both[0] / 2) < spread_of_both[1] < 2 * spread_of_both[0]:
            return ""
        if np.corrcoef(m, theirs)[0, 1] > MIN_CORRELATION:
            return ""
    return "its magnitudes are in another order than its rows, or another module's"


Pair = tuple[TensorKey, TensorInfo, SafetensorsFile, TensorInfo]


def _pairs(context: LintContext, part: Part) -> Iterator[Pair]:
    """Yield each readable tensor of a part, with its header's entry and the base's weight."""
    for key in context.keys.values():
        place = context.base.tensor(key.module) if key.part is part else None
        info = context.info(key)
        if place is not None and info.dtype in READABLE:
            yield key, info, *place


def _same(
    context: LintContext, ours: TensorInfo, file: SafetensorsFile, theirs: TensorInfo
) -> bool:
    """Whether one of two tables is the other, rounded to its own dtype.

    A table can have been rounded on its way into the file (training in float16 on a bfloat16 base,
    which loses small numbers), and the base on its way to here.
    """
    import numpy as np

    here = there = True
    for start in range(0, ours.shape[0], _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
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


def _strange(ours: "Numbers", base: "Numbers") -> str:
    """Say why some rows of a module (or a norm) cannot come from the base's; "" if they can."""
    import numpy as np

    size, usual = float(np.linalg.norm(ours)), float(np.linalg.norm(base))
    if usual == 0:
        return ""
    if ours.ndim == 1:
        cosine = float(ours @ base / max(size * usual, 1e-300))
        if not cosine > MIN_NORM_COSINE:
            return f"its cosine with the base's is {cosine:.2f}"
    elif (lost := _row_norms(ours) < LOST * _row_norms(base)).any():
        return f"{int(lost.sum())} of {len(ours)} rows looked at are zero, the base's are not"
    if not 1 / MAX_SIZE < size / usual < MAX_SIZE:
        return f"it is {size / usual:.3g} times as large as the base's"
    if ours.ndim == 2 and (likeness := _likeness(ours, base)) < MIN_LIKENESS:
        return f"its rows are unlike the base's (by {likeness:.1f} deviations of chance)"
    return ""


def _row_norms(rows: "NDArray[np.floating]") -> "Numbers":
    import numpy as np

    with np.errstate(over="ignore"):
        return np.asarray(np.linalg.norm(rows.astype(np.float64), axis=1), dtype=np.float64)


def _likeness(ours: "Numbers", base: "Numbers") -> float:
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


def _magnitudes(
    context: LintContext, module: BaseModule
) -> "tuple[Numbers, Numbers, Numbers] | None":
    """Return |m| and the norms of W + delta and of W; None where they cannot be told."""
    import numpy as np

    names = context.factor_names(module.name)
    name = tensor_name(module.name, Part.MAGNITUDE)
    place = context.base.tensor(module.name)
    if names is None or name not in context.measures or place is None:
        return None
    if not all(context.measures[n].is_finite for n in (*names, name)):
        return None
    a, b = (context.tensor(n).astype(np.float64) for n in names)
    m = np.abs(context.tensor(name).reshape(-1).astype(np.float64))
    if not (a.ndim == b.ndim == 2 and b.shape == (m.size, len(a)) and m.size > 0):
        return None  # tensors-shape says it
    table = module.kind is ModuleKind.EMBEDDING
    shape = (a.shape[1], m.size) if table else (m.size, a.shape[1])
    if place[1].shape != shape:
        return None  # and this too
    b = b * context.matching.scaling(module.name)
    return _by_column(place, a, b, m) if table else _by_row(place, a, b, m)


Place = tuple[SafetensorsFile, TensorInfo]


def _by_row(
    place: Place, a: "Numbers", b: "Numbers", m: "Numbers"
) -> "tuple[Numbers, Numbers, Numbers]":
    """Of a linear module: some rows of W, and those of the largest and the smallest magnitude."""
    import numpy as np

    file, info = place
    ends = (int(m.argmax()), int(m.argmin()))
    parts = [*sample_rows(len(m)), *(slice(row, row + 1) for row in ends)]
    weight = np.concatenate([file.tensor(info.name, part) for part in parts])
    rows = np.concatenate([np.arange(len(m))[part] for part in parts])
    return m[rows], np.linalg.norm(weight + b[rows] @ a, axis=1), np.linalg.norm(weight, axis=1)


def _by_column(
    place: Place, a: "Numbers", b: "Numbers", m: "Numbers"
) -> "tuple[Numbers, Numbers, Numbers]":
    """Of an embedding: the norms over all tokens, estimated from some; none without the delta."""
    import numpy as np

    file, info = place
    squares, seen = np.zeros(len(m)), 0
    for part in sample_rows(info.shape[0], each=_TABLE_ROWS):
        rows = file.tensor(info.name, part) + a[:, part].T @ b.T
        squares += (rows**2).sum(axis=0)
        seen += len(rows)
    return m, np.sqrt(squares * info.shape[0] / seen), np.empty(0)
