"""Family values: faults in complete modules, token rows, biases and magnitudes."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.rules.factor_values import MAX_GAIN
from phi3_lora_qa.adapter.tensor_names import FACTORS, Part, tensor_name

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.weight_stats import TensorStats

MAX_RMS, MAX_ELEMENT = 100.0, 1e4
"""The largest root mean square, and the largest element, of a healthy weight, norm, row or bias.

Weights of language models have an rms below 1, norms up to about 20, single elements of norms a
few hundred. A bias is multiplied by its scaling, because it is added to outputs of about that size.
"""

MIN_RMS = 1e-8
"""A weight with a smaller root mean square counts as zero; the base's have more than 1e-3."""

MAX_MAGNITUDE = 1000.0
"""The largest ratio of a DoRA magnitude to the median of its module's magnitudes.

Magnitudes start as the norms of the weight's rows: 1 to 5 in Phi-3, and a hundred times that in
single rows of outlier features. It is also the limit of the median itself, except in an embedding
table, where magnitudes are norms over all tokens and the elements' limit is `MAX_RMS`.
"""

MIN_NEGATIVE = 0.1
"""The least size of a negative magnitude, relative to the median, that training cannot explain.

A magnitude starts positive. A tiny one may cross zero; any other would first have to shrink to
zero, and so would its output.
"""

_WHOLE = (Part.WEIGHT, Part.BASE_WEIGHT, Part.TOKENS)


@rule(
    "values-zero-weight",
    severity=Severity.ERROR,
    title="No complete module, table, set of rows or bias in the file is all zeros",
    why="A head, norm or table of zeros replaces the base's: all logits become equal, or tokens "
    "lose their meaning. A bias of zeros was never trained, or was lost.",
    fix="copy the complete, gathered tensor from the training output again",
    needs=["expected tensors"],
)
def zero_weight(context: LintContext) -> Iterator[Violation]:
    """Find complete weights, copies of tables, token rows and biases that are (almost) zero."""
    for name, found in context.tensor_stats.items():
        if (
            context.keys[name].part in (*_WHOLE, Part.B_BIAS)
            and found.is_finite
            and found.rms < MIN_RMS
        ):
            yield Violation(name, "all values are zero or almost zero")


@rule(
    "values-weight-size",
    severity=Severity.ERROR,
    title="No complete module, table, set of rows, bias or factor is larger than in any healthy "
    "adapter",
    why="Values this large drown out everything else that the base computes. Large factors "
    "overflow in float16 as soon as they are loaded, even if their product is small.",
    fix="train again with a lower learning rate, or copy the tensor from the training output again",
    needs=["expected tensors"],
)
def weight_size(context: LintContext) -> Iterator[Violation]:
    """Find weights, token rows, LoRA biases and single numbers of an implausible size.

    values-explosion checks the size of the factors' product.
    """
    for name, found in context.tensor_stats.items():
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
            yield Violation(name, f"the root mean square is {size:.3g}, above {most:g}")
        elif found.is_finite and largest > MAX_ELEMENT:
            yield Violation(name, f"the largest value is {largest:.3g}, above {MAX_ELEMENT:g}")


@rule(
    "values-magnitude",
    severity=Severity.ERROR,
    title="Every DoRA magnitude is positive and of a plausible size",
    why="A magnitude of zero disables an output of the base, a negative one reverses it, and a "
    "huge one drowns out the others.",
    fix="copy the magnitudes from the training output again",
    needs=["expected tensors"],
)
def magnitude(context: LintContext) -> Iterator[Violation]:
    """Find magnitudes that are zero, negative, or far above the others of their module."""
    import numpy as np

    for name, found in context.tensor_stats.items():
        key = context.keys[name]
        if key.part is not Part.MAGNITUDE or not found.is_finite or not found.size:
            continue
        values = context.tensor(name).reshape(-1).astype(np.float64)
        median = float(np.partition(np.abs(values), values.size // 2)[values.size // 2])
        large = int((np.abs(values) > MAX_MAGNITUDE * median).sum()) if median else 0
        counts = {
            "zero": int((values == 0).sum()),
            "negative": int((values < -MIN_NEGATIVE * median).sum()),
            f"more than {MAX_MAGNITUDE:g} times the median": large,
        }
        for what, count in counts.items():
            if count:
                yield Violation(name, f"{count} of {values.size} magnitudes are {what}")
        if median > (limit := _largest_median(context, key.module)):
            yield Violation(name, f"the median magnitude is {median:.3g}, above {limit:.3g}")


def _largest(found: "TensorStats") -> float:
    return max(-found.lowest, found.highest)


def _largest_median(context: LintContext, module: str) -> float:
    table = context.keys.get(tensor_name(module, Part.EMBEDDING_A))
    shape = context.info(table).shape if table else ()
    return MAX_RMS * math.sqrt(shape[1]) if len(shape) == 2 else MAX_MAGNITUDE
