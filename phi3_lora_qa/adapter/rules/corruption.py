"""Family values, its rules on damage: what a torn file or a wrong gather leaves within a factor."""

from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.tensor_names import FACTORS, Part

MIN_SPIKE_SIZE = 64
"""Of fewer numbers one may well outweigh the others."""

MIN_HOLE_ROWS = 16

_UNFUSED = ("o_proj", "down_proj")
"""The modules whose outputs are one block: of the others a block may have been left alone."""


@rule(
    "values-spike",
    severity=Severity.ERROR,
    title="No single number outweighs all others of its factor",
    why="A flipped bit or a damaged block leaves one number that is larger than all the others "
    "together. Training moves the numbers of a factor by about one size.",
    fix="take the tensor from the training output again",
    needs=["implied"],
)
def spike(context: LintContext) -> Iterator[Violation]:
    """Find factors of which one element holds nearly all of the norm.

    An embedding's A is left out: it has columns for the tokens that were seen, perhaps a few.
    """
    for name, found in context.measures.items():
        key = context.keys[name]
        if key.part not in FACTORS or key.part is Part.EMBEDDING_A:
            continue
        shape = context.info(key).shape
        many = found.size >= MIN_SPIKE_SIZE and len(shape) == 2 and min(shape) > 1
        if many and found.is_finite and found.has_spike:
            largest = max(-found.lowest, found.highest)
            yield Violation(
                name, f"one of its {found.size} numbers is {largest:.3g}, the others small"
            )


@rule(
    "values-repeated",
    severity=Severity.ERROR,
    title="No factor is one block, again and again",
    why="Training never leaves the same numbers twice in a tensor: one process's shard was written "
    "in the place of the others', which are lost.",
    fix="gather the shards of all processes before saving, and take the tensor from there",
    needs=["implied"],
)
def repeated(context: LintContext) -> Iterator[Violation]:
    """Find factors whose first part is the second one, too, of two to eight equal parts."""
    for name, found in context.measures.items():
        if found.repeated_parts and not found.is_constant:
            yield Violation(
                name, f"of {found.repeated_parts} equal parts the second is a copy of the first"
            )


@rule(
    "values-zero-run",
    severity=Severity.ERROR,
    title="No factor has a hole of zeros",
    why="A trained factor is dense. After a crash a file system leaves blocks of zeros in a file "
    "whose size is right, and a shard that never arrived leaves its rows zero.",
    fix="take the tensor from the training output again",
    needs=["implied"],
)
def zero_run(context: LintContext) -> Iterator[Violation]:
    """Find a run of zeros that no training and no conversion leaves.

    Whole rows may be zero in A, where ranks are padded or were switched off, and in B of a fused
    module, of which one projection was trained. A's end is values-zero-tail's.
    """
    for name, found in context.measures.items():
        key = context.keys[name]
        start, length = found.zero_run
        if key.part not in (Part.A, Part.B) or not length or found.trailing_zeros:
            continue
        columns = context.info(key).shape[1]
        ragged = bool(start % columns or (start + length) % columns)
        leaf = key.module.rpartition(".")[2]
        whole = key.part is Part.B and leaf in _UNFUSED and length >= MIN_HOLE_ROWS * columns
        if ragged or whole:
            yield Violation(name, f"{length} numbers in a row are zero, from number {start} on")
