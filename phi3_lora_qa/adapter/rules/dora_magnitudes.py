"""Family base: DoRA magnitudes compared with the norms of the base's rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.base_files import sample_rows
from phi3_lora_qa.adapter.base_modules import BaseModule, ModuleKind
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.safetensors_file import SafetensorsFile, TensorInfo
from phi3_lora_qa.adapter.tensor_names import Part, tensor_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

BaseWeight = tuple[SafetensorsFile, TensorInfo]
"""The file that contains a weight of the base, and the weight's header entry."""

MAGNITUDE_RANGE = 4.0
"""The largest median ratio of magnitudes to the rows' norms, or its inverse."""

MAGNITUDE_ROW_RANGE = 16.0
"""The same for one magnitude; small rows, which change a lot, are compared with the median."""

MIN_ROWS, MIN_SPREAD, MIN_CORRELATION = 32, 0.02, 0.4
"""The least number of rows, the least spread of their norms, and the least correlation with them.

Trained magnitudes have a correlation of 0.99 and more; for 64 rows in another order, it exceeds 0.4
in one case of 2,000.
"""

_TABLE_ROWS = 64


@rule(
    "base-dora-magnitude",
    severity=Severity.ERROR,
    title="DoRA magnitudes are close to the norms of the base's rows",
    why="They start as the norms of the base's rows and change little. Magnitudes that differ were "
    "trained on another base or were scaled, and they rescale every output of their module.",
    fix="pass the base used in training, or copy the magnitudes from the training output again",
    needs=["expected tensors", "base weights"],
)
def dora_magnitude(context: LintContext) -> Iterator[Violation]:
    """Compare m with the norms of W + delta, for some rows of W and the extremes of m."""
    import numpy as np

    for module in context.expected.targeted.values():
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is too large
            pair = _magnitudes(context, module)
            reason = (_wrong_size(*pair[:2]) or _wrong_order(*pair)) if pair else ""
        if reason:
            yield Violation(module.name, reason)


def _wrong_size(magnitudes: "Numbers", norms: "Numbers") -> str:
    """Say why the magnitudes cannot come from these norms; "" if they can."""
    import numpy as np

    ratio = float(np.median(magnitudes / np.maximum(norms, 1e-30)))
    if not 1 / MAGNITUDE_RANGE < ratio < MAGNITUDE_RANGE:
        return f"the magnitudes are about {ratio:.3g} times the rows' norms"
    middle = float(np.median(norms))
    large = magnitudes > MAGNITUDE_ROW_RANGE * np.maximum(norms, middle)
    small = (magnitudes * MAGNITUDE_ROW_RANGE < norms) & (2 * norms > middle)
    wrong = np.flatnonzero(large | small)
    if not wrong.size:
        return ""
    return f"a magnitude is {magnitudes[wrong[0]]:.3g}, but the norm is {norms[wrong[0]]:.3g}"


def _wrong_order(magnitudes: "Numbers", norms: "Numbers", own: "Numbers") -> str:
    """Say so if the magnitudes are spread like the rows' norms but do not correlate with them.

    Training that moves them apart spreads them more; in another order, or from another layer, the
    spread is the same. ``own`` are the norms without the delta; for a table it is empty.
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
    return "the magnitudes are in another order than the rows, or belong to another module"


def _magnitudes(
    context: LintContext, module: BaseModule
) -> "tuple[Numbers, Numbers, Numbers] | None":
    """Return |m| and the norms of W + delta and of W; None if they cannot be computed."""
    import numpy as np

    names = context.factor_names(module.name)
    name = tensor_name(module.name, Part.MAGNITUDE)
    weight = context.base.tensor(module.name)
    if names is None or name not in context.tensor_stats or weight is None:
        return None
    if not all(context.tensor_stats[n].is_finite for n in (*names, name)):
        return None
    a, b = (context.tensor(n).astype(np.float64) for n in names)
    m = np.abs(context.tensor(name).reshape(-1).astype(np.float64))
    if not (a.ndim == b.ndim == 2 and b.shape == (m.size, len(a)) and m.size > 0):
        return None  # tensors-shape reports it
    table = module.kind is ModuleKind.EMBEDDING
    shape = (a.shape[1], m.size) if table else (m.size, a.shape[1])
    if weight[1].shape != shape:
        return None  # tensors-shape reports it
    b = b * context.matching.scaling(module.name)
    return _by_column(weight, a, b, m) if table else _by_row(weight, a, b, m)


def _by_row(
    weight: BaseWeight, a: "Numbers", b: "Numbers", m: "Numbers"
) -> "tuple[Numbers, Numbers, Numbers]":
    """Compare some rows of a linear module's W, with those of the extreme magnitudes."""
    import numpy as np

    file, info = weight
    ends = (int(m.argmax()), int(m.argmin()))
    parts = [*sample_rows(len(m)), *(slice(row, row + 1) for row in ends)]
    own = np.concatenate([file.tensor(info.name, part) for part in parts])
    rows = np.concatenate([np.arange(len(m))[part] for part in parts])
    return m[rows], np.linalg.norm(own + b[rows] @ a, axis=1), np.linalg.norm(own, axis=1)


def _by_column(
    weight: BaseWeight, a: "Numbers", b: "Numbers", m: "Numbers"
) -> "tuple[Numbers, Numbers, Numbers]":
    """Estimate an embedding's norms over all tokens from some; none without the delta."""
    import numpy as np

    file, info = weight
    squares, seen = np.zeros(len(m)), 0
    for part in sample_rows(info.shape[0], each=_TABLE_ROWS):
        rows = file.tensor(info.name, part) + a[:, part].T @ b.T
        squares += (rows**2).sum(axis=0)
        seen += len(rows)
    return m, np.sqrt(squares * info.shape[0] / seen), np.empty(0)
