"""Family values, its rules on what is no factor: whole modules, rows, biases and magnitudes."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rules.factor_values import MAX_GAIN
from phi3_lora_qa.adapter.tensor_names import FACTORS, Part, tensor_name

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.weight_stats import TensorStats

MAX_RMS, MAX_ELEMENT = 100.0, 1e4
"""The largest root mean square, and the largest element, of a healthy weight, norm, row or bias.

Weights of language models have an rms below 1, norms up to about 20, single elements of norms some
hundreds. A bias counts with its scaling, as it is added to outputs of about that size.
"""

MIN_RMS = 1e-8
"""Below this a weight is nothing: the base's are above 1e-3."""

MAX_MAGNITUDE = 1000.0
"""How many times the median of its module's magnitudes a DoRA magnitude may be.

They begin as the norms of the weight's rows: 1 to 5 in Phi-3, and a hundred times that in single
rows of outlier features. The median itself is held to it too; that of an embedding table, where
they are norms over all tokens, to `MAX_RMS` of the table's elements.
"""

MIN_NEGATIVE = 0.1
"""How large a negative magnitude is, beside the median, that training cannot have led there.

It begins positive. A row of next to nothing may cross zero; any other would have to lose all of its
size first, and its output with it.
"""

_WHOLE = (Part.WEIGHT, Part.BASE_WEIGHT, Part.TOKENS)


@rule(
    "values-zero-weight",
    severity=Severity.ERROR,
    title="No whole module, table, row set or bias in the file is zero",
    why="A head, norm or table of zeros takes the place of the base's: every logit becomes the "
    "same, or tokens lose their meaning. A bias of zeros was never trained, or was lost.",
    fix="take the tensor from the training output again, gathered and whole",
    needs=["implied"],
)
def zero_weight(context: LintContext) -> Iterator[Violation]:
    """Find whole weights, copies of tables, token rows and biases that are (next to) nothing."""
    for name, found in context.measures.items():
        if (
            context.keys[name].part in (*_WHOLE, Part.B_BIAS)
            and found.is_finite
            and found.rms < MIN_RMS
        ):
            yield Violation(name, "all values are zero, or next to nothing")


@rule(
    "values-weight-size",
    severity=Severity.ERROR,
    title="No whole module, table, row set, bias or factor is larger than any healthy one",
    why="What is so large drowns everything else that the base computes. Factors that are small "
    "only together overflow between them, in float16 already when they are loaded.",
    fix="train again with a lower learning rate, or take the tensor from the training output again",
    needs=["implied"],
)
def weight_size(context: LintContext) -> Iterator[Violation]:
    """Find whole weights, token rows, LoRA biases and single numbers of an impossible size.

    The size of what factors make together is that of their delta (see values-explosion).
    """
    for name, found in context.measures.items():
        key = context.keys[name]
        if key.part is Part.B_BIAS:
            scaling = abs(context.matching.scaling(key.module))
            largest, size, most = scaling * _largest(found), scaling * found.rms, MAX_GAIN
        elif key.part in _WHOLE:
            largest, size, most = _largest(found), found.rms, MAX_RMS
        elif key.part in FACTORS:
            largest, size, most = _largest(found), 0.0, MAX_RMS
        else:
            continue
        if found.is_finite and size > most:
            yield Violation(name, f"its root mean square is {size:.3g}, above {most:g}")
        elif found.is_finite and largest > MAX_ELEMENT:
            yield Violation(name, f"its largest value is {largest:.3g}, above {MAX_ELEMENT:g}")


@rule(
    "values-magnitude",
    severity=Severity.ERROR,
    title="Every DoRA magnitude is a positive number of a possible size",
    why="A magnitude of zero switches an output of the base off, a negative one turns it round, "
    "and a huge one drowns the others.",
    fix="take the magnitudes from the training output again",
    needs=["implied"],
)
def magnitude(context: LintContext) -> Iterator[Violation]:
    """Find magnitudes that are zero, negative, or far above the others of their module."""
    import numpy as np

    for name, found in context.measures.items():
        key = context.keys[name]
        if key.part is not Part.MAGNITUDE or not found.is_finite or not found.size:
            continue
        values = context.tensor(name).reshape(-1).astype(np.float64)
        middle = float(np.partition(np.abs(values), values.size // 2)[values.size // 2])
        counts = {
            "zero": int((values == 0).sum()),
            "negative": int((values < -MIN_NEGATIVE * middle).sum()),
            f"more than {MAX_MAGNITUDE:g} times the median": int(
                (np.abs(values) > MAX_MAGNITUDE * middle).sum()
            ),
        }
        for what, count in counts.items():
            if count and not (what.startswith("more") and middle == 0):
                yield Violation(name, f"{count} of {values.size} magnitudes are {what}")
        if middle > _largest_median(context, key.module):
            yield Violation(name, f"the median of its magnitudes is {middle:.3g}")


def _largest(found: "TensorStats") -> float:
    return max(-found.lowest, found.highest)


def _largest_median(context: LintContext, module: str) -> float:
    table = context.keys.get(tensor_name(module, Part.EMBEDDING_A))
    shape = context.info(table).shape if table else ()
    return MAX_RMS * math.sqrt(shape[1]) if len(shape) == 2 else MAX_MAGNITUDE
