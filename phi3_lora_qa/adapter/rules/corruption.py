"""Family values: traces that a truncated file or a wrong gather leaves within a factor."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.tensor_names import FACTORS, Part

MIN_SPIKE_SIZE = 64
"""In a smaller factor, one number may well outweigh the others."""

MIN_HOLE_ROWS = 16

_UNFUSED = ("o_proj", "down_proj")
"""The modules whose outputs are one block; in fused modules a block may be untrained."""


@rule(
    "values-spike",
    severity=Severity.ERROR,
    title="No single number outweighs all others in its factor",
    why="A flipped bit or a damaged block leaves one number that is larger than all others "
    "combined. Training changes the numbers of a factor by similar amounts.",
    fix="copy the tensor from the training output again",
    needs=["expected tensors"],
)
def spike(context: LintContext) -> Iterator[Violation]:
    """Find factors in which one element contributes nearly all of the norm.

    An embedding's A is skipped: only the columns of seen tokens are trained, and they may be
    few.
    """
    for name, found in context.tensor_stats.items():
        key = context.keys[name]
        if key.part not in FACTORS or key.part is Part.EMBEDDING_A:
            continue
        shape = context.info(key).shape
        many = found.size >= MIN_SPIKE_SIZE and len(shape) == 2 and min(shape) > 1
        if many and found.is_finite and found.has_spike:
            largest = max(-found.lowest, found.highest)
            yield Violation(
                name, f"one of its {found.size} numbers is {largest:.3g}, and the others are small"
            )


@rule(
    "values-repeated",
    severity=Severity.ERROR,
    title="No factor consists of one repeated block",
    why="Training never produces the same numbers twice in a tensor: the shard of one process was "
    "written in place of the other shards, which are lost.",
    fix="gather the shards of all processes before saving, and copy the tensor from there",
    needs=["expected tensors"],
)
def repeated(context: LintContext) -> Iterator[Violation]:
    """Find factors whose second part equals the first, for two to eight equal parts."""
    for name, found in context.tensor_stats.items():
        if found.repeated_parts and not found.is_constant:
            yield Violation(
                name, f"the second of {found.repeated_parts} equal parts is a copy of the first"
            )


@rule(
    "values-zero-run",
    severity=Severity.ERROR,
    title="No factor has a run of zeros",
    why="A trained factor is dense. After a crash a file system can leave blocks of zeros in a "
    "file of the right size, and a shard that never arrived leaves its rows zero.",
    fix="copy the tensor from the training output again",
    needs=["expected tensors"],
)
def zero_run(context: LintContext) -> Iterator[Violation]:
    """Find a run of zeros that neither training nor conversion produces.

    Complete rows may be zero in A if ranks are padded or pruned, and in B of a fused module if
    only one projection was trained. values-zero-tail checks the end of A.
    """
    for name, found in context.tensor_stats.items():
        key = context.keys[name]
        start, length = found.zero_run
        if key.part not in (Part.A, Part.B) or not length or found.trailing_zeros:
            continue
        columns = context.info(key).shape[1]
        ragged = bool(start % columns or (start + length) % columns)
        leaf = key.module.rpartition(".")[2]
        whole = key.part is Part.B and leaf in _UNFUSED and length >= MIN_HOLE_ROWS * columns
        if ragged or whole:
            yield Violation(name, f"{length} consecutive numbers are zero, starting at {start}")
