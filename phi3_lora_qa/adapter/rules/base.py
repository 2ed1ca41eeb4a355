"""Family base: agreement with the base's weights, read a few rows at a time.

Names, shapes and layer counts are compared in family tensors: with a base, what the config implies
is worked out from the base itself.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.base import BaseModule, ModuleKind
from phi3_lora_qa.adapter.expected import agreed_sizes
from phi3_lora_qa.adapter.finding import Hit, Severity, rule
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.keys import Part, tensor_name
from phi3_lora_qa.adapter.safetensors import READABLE, SafetensorsFile, TensorInfo
from phi3_lora_qa.adapter.subject import Subject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from phi3_lora_qa.adapter.safetensors import Array

MAX_RATIO = 10.0
"""How many times as large as the base's weight a healthy delta can be, in Frobenius norm."""

MIN_RATIO = 1e-4
"""What the largest ‖delta‖ / ‖W‖ of a trained adapter's modules is at least, in Frobenius norms.

One step of Adam at a learning rate of 1e-4 from B = 0 moves every element of B by about 1e-4, and
with r = 16 and s = 2 leaves a ratio of about 4e-4 on Phi-3-mini (‖B·A‖_F near 1e-4 · sqrt(out · r)
· ‖a‖ with rows ‖a‖ near 0.58; ‖W‖_F near 60). Below a quarter of that, less than a step is left.
"""

MAGNITUDE_RANGE = 4.0
"""How far from the rows' norms, as a factor, a healthy adapter's magnitudes are in the median."""

_SAMPLE_ROWS = 64
_BLOCK_ROWS = 4096


@rule(
    "base-sizes",
    severity=Severity.ERROR,
    title="The adapter's sizes are those of the base",
    why="Most of the file's factors agree on sizes that the base does not have: it is for another "
    "model of the family.",
    fix="give the base that the adapter was trained on",
    needs=["implied", "base", "weights"],
)
def sizes(subject: Subject) -> Iterator[Hit]:
    """Compare the sizes that the file's factors agree on with the base's, and name one."""
    found = agreed_sizes(subject.config, subject.keys.values(), subject.weights.tensors)
    for module in {m.leaf: m for m in subject.base.modules.values()}.values():
        is_table = module.kind is ModuleKind.EMBEDDING
        for way, size in (("in", module.inputs), ("out", module.outputs)):
            other = found.get((module.leaf, way))
            if other and size and other != size:
                word = "rows" if is_table and way == "in" else f"{way}puts"
                yield Hit(
                    WEIGHTS,
                    f"its factors are for a {module.leaf} with {other} {word}, the base's has "
                    f"{size}: this is another base",
                )
                return


@rule(
    "base-embedding-copy",
    severity=Severity.ERROR,
    title="The base's embedding table in the file is the base's own",
    why="peft saves a copy of the table when it is adapted, and loads it into the base. Another "
    "table there changes the base for everyone who uses it afterwards.",
    fix="use the base of the training, or remove the base_layer.weight tensors from the file",
    needs=["implied", "base"],
)
def embedding_copy(subject: Subject) -> Iterator[Hit]:
    """Compare base_layer.weight with the base's tensor, in the coarser of the two dtypes."""
    for key in subject.keys.values():
        if key.part is not Part.BASE_WEIGHT or key.module not in subject.base.modules:
            continue
        embedding = "model.embed_tokens" if subject.base.config.get("tie_word_embeddings") else ""
        place = subject.base.tensor(key.module) or subject.base.tensor(embedding)
        if place is None:
            yield Hit(key.name, "the base has no weights to compare this copy with")
            continue
        ours, (file, theirs) = subject.info(key), place
        if ours.shape != theirs.shape or not {ours.dtype, theirs.dtype} <= set(READABLE):
            yield Hit(key.name, "shape or dtype differs from the base's table")
        elif not _same(subject, ours, file, theirs):
            yield Hit(key.name, f"it differs from the base's {theirs.name}")


@rule(
    "base-delta-size",
    severity=Severity.ERROR,
    title="No delta dwarfs the weight that it is added to",
    why="A delta many times the size of its weight has replaced the base and not adapted it; "
    "RMSNorm keeps the logits' size ordinary.",
    fix="train again with a lower learning rate or alpha",
    needs=["implied", "base"],
)
def delta_size(subject: Subject) -> Iterator[Hit]:
    """Compare norms, the base's estimated from some rows of each weight."""
    for module, sized in subject.deltas.items():
        weight = _weight_norm(subject, module)
        if weight and not sized.norm <= MAX_RATIO * weight:
            yield Hit(module, f"the delta's norm is {sized.norm:.3g}, the weight's {weight:.3g}")


@rule(
    "base-delta-negligible",
    severity=Severity.ERROR,
    title="The deltas are more than one step of training would leave",
    why="Factors that were scaled down, or trained with next to no learning rate, load and pass "
    "for an adapter; what runs is the bare base, and merging in bfloat16 loses even the rest.",
    fix="look for a learning rate or alpha that is far too small, or factors scaled when exported",
    needs=["implied", "base"],
)
def delta_negligible(subject: Subject) -> Iterator[Hit]:
    """Find an adapter whose largest delta is next to nothing beside its weight."""
    config = subject.config
    others = config.use_dora or config.lora_bias or config.trainable_token_indices
    if others or subject.implied.saved:
        return  # what was trained may lie in magnitudes, biases, rows or whole modules
    if any(sized.norm == 0 for sized in subject.deltas.values()):
        return  # values-untrained and values-dead-module say it
    ratios = [
        sized.norm / weight
        for module, sized in subject.deltas.items()
        if (weight := _weight_norm(subject, module))
    ]
    if ratios and max(ratios) < MIN_RATIO:
        yield Hit(
            WEIGHTS, f"the largest delta is {max(ratios):.2g} of the weight that it is added to"
        )


@rule(
    "base-dora-magnitude",
    severity=Severity.ERROR,
    title="DoRA's magnitudes are about the norms of the base's rows",
    why="They begin as the norms of the base's own rows and move little: others were trained on "
    "another base, or were scaled, and rescale every output of their module.",
    fix="give the base of the training, or take the magnitudes from the training output again",
    needs=["implied", "base"],
)
def dora_magnitude(subject: Subject) -> Iterator[Hit]:
    """Compare m with ‖W + delta‖ on some rows of every linear module."""
    for module in subject.implied.targeted.values():
        ratio = _magnitude_ratio(subject, module)
        if ratio is not None and not 1 / MAGNITUDE_RANGE < ratio < MAGNITUDE_RANGE:
            yield Hit(module.name, f"its magnitudes are about {ratio:.3g} times its rows' norms")


def _magnitude_ratio(subject: Subject, module: BaseModule) -> float | None:
    """Return the median of |m| / ‖W + delta‖ over some rows; None where it cannot be told."""
    import numpy as np

    names = [tensor_name(module.name, part) for part in (Part.A, Part.B, Part.MAGNITUDE)]
    place = subject.base.tensor(module.name)
    if place is None or not all(
        name in subject.measures and subject.measures[name].finite for name in names
    ):
        return None
    file, info = place
    a, b, m = (subject.weights.tensor(subject.keys[name].name) for name in names)
    outputs = b.shape[0] if b.ndim else 0
    fits = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1] and m.size == outputs
    if not fits or info.dtype not in READABLE or info.shape != (outputs, a.shape[1]):
        return None  # tensors-shape says it
    rows = sorted({number * (outputs - 1) // 7 for number in range(8)})
    weight = np.concatenate([file.tensor(info.name, slice(row, row + 1)) for row in rows])
    with np.errstate(over="ignore", invalid="ignore"):
        combined = weight + subject.matching.scaling(module.name) * (b[rows] @ a)
        norms = np.linalg.norm(combined, axis=1)
        return float(np.median(np.abs(m.reshape(-1)[rows]) / np.maximum(norms, 1e-30)))


def _same(subject: Subject, ours: TensorInfo, file: SafetensorsFile, theirs: TensorInfo) -> bool:
    """Whether two tables hold the same numbers, as far as the coarser dtype can tell."""
    import numpy as np

    coarse = min(ours.dtype, theirs.dtype, key=_MANTISSA.__getitem__)
    for start in range(0, ours.shape[0], _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        mine = _rounded(subject.weights.tensor(ours.name, block), coarse)
        base = _rounded(file.tensor(theirs.name, block), coarse)
        if not np.array_equal(mine, base):
            return False
    return True


_MANTISSA = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}


def _rounded(array: "Array", dtype: str) -> "NDArray[np.generic]":
    import numpy as np

    if dtype == "BF16":
        bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
        # Round half to even on the upper 16 bits, as casting to bfloat16 does.
        return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return array.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def _weight_norm(subject: Subject, module: str) -> float:
    """Estimate the Frobenius norm of a base weight from evenly spaced blocks of rows."""
    place = subject.base.tensor(module)
    if place is None or place[1].dtype not in READABLE or len(place[1].shape) != 2:
        return 0.0
    rows = place[1].shape[0]
    count, step = min(rows, _SAMPLE_ROWS), max(1, rows // 8)
    starts = range(0, rows, step) if rows > _SAMPLE_ROWS else (0,)
    size = max(1, count // max(1, len(starts)))
    sample = [place[0].tensor(place[1].name, slice(s, s + size)) for s in starts]
    seen = sum(len(block) for block in sample)
    square = sum(float((block * block).sum()) for block in sample)
    return math.sqrt(square * rows / max(1, seen))
