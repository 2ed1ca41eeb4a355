"""Family base: agreement with the base's weights, read a few rows at a time.

Names, shapes and layer counts are compared in family tensors: with a base, what the config implies
is worked out from the base itself. What takes the place of the base's own numbers (whole modules,
tables, rows, magnitudes) is compared with these in `replaced`.
"""

import math
from collections.abc import Iterator

from phi3_lora_qa.adapter.base_files import ModuleKind, sample_rows
from phi3_lora_qa.adapter.expected_tensors import majority_sizes
from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rules.factor_values import dead_modules

MAX_RATIO = 10.0
"""How many times as large as the base's weight a healthy delta can be, in Frobenius norm."""

MIN_RATIO = 1e-4
"""What the largest ‖delta‖ / ‖W‖ of a trained adapter's modules is at least, in Frobenius norms.

One step of Adam at a learning rate of 1e-4 from B = 0 moves every element of B by about 1e-4, and
with r = 16 and s = 2 leaves a ratio of about 4e-4 on Phi-3-mini (‖B·A‖_F near 1e-4 · sqrt(out · r)
· ‖a‖ with rows ‖a‖ near 0.58; ‖W‖_F near 60). Below a quarter of that, less than a step is left.
"""

MIN_KIND_RATIO = 1e-6
"""The same for the modules of one kind: a hundredth of one step, for kinds that are scaled down."""

MIN_MODULE_RATIO = 1e-8
"""The same for one module: less than the rounding of its weight in float32."""


@rule(
    "base-sizes",
    severity=Severity.ERROR,
    title="The adapter's sizes are those of the base",
    why="Most of the file's factors agree on sizes that the base does not have: it is for another "
    "model of the family.",
    fix="give the base that the adapter was trained on",
    needs=["implied", "base", "weights"],
)
def sizes(context: LintContext) -> Iterator[Violation]:
    """Compare the sizes that the file's factors agree on with the base's, and name one."""
    found = majority_sizes(context.config, context.keys.values(), context.weights.tensors)
    for module in {m.leaf: m for m in context.base.modules.values()}.values():
        is_table = module.kind is ModuleKind.EMBEDDING
        for way, size in (("in", module.inputs), ("out", module.outputs)):
            other = found.get((module.leaf, way))
            if other and size and other != size:
                word = "rows" if is_table and way == "in" else f"{way}puts"
                yield Violation(
                    WEIGHTS,
                    f"its factors are for a {module.leaf} with {other} {word}, the base's has "
                    f"{size}: this is another base",
                )
                return


@rule(
    "base-delta-size",
    severity=Severity.ERROR,
    title="No delta dwarfs the weight that it is added to",
    why="A delta many times the size of its weight has replaced the base and not adapted it; "
    "RMSNorm keeps the logits' size ordinary.",
    fix="train again with a lower learning rate or alpha",
    needs=["implied", "base weights"],
)
def delta_size(context: LintContext) -> Iterator[Violation]:
    """Compare norms, the base's estimated from some rows of each weight."""
    for module, sized in context.deltas.items():
        weight = _weight_norm(context, module)
        if weight and not sized.norm <= MAX_RATIO * weight:
            yield Violation(
                module, f"the delta's norm is {sized.norm:.3g}, the weight's {weight:.3g}"
            )


@rule(
    "base-delta-negligible",
    severity=Severity.ERROR,
    title="The deltas are more than one step of training would leave",
    why="Factors that were scaled down, or trained with next to no learning rate, load and pass "
    "for an adapter; what runs is the bare base, and merging in bfloat16 loses even the rest.",
    fix="look for a learning rate or alpha that is far too small, or factors scaled when exported",
    needs=["implied", "base weights"],
)
def delta_negligible(context: LintContext) -> Iterator[Violation]:
    """Find an adapter, a kind of module or a module whose delta is nothing beside its weight."""
    dead = dead_modules(context)
    ratios = {
        module: sized.norm / weight
        for module, sized in context.deltas.items()
        if sized.norm and module not in dead and (weight := _weight_norm(context, module))
    }
    largest = max(ratios.values(), default=1.0)
    if largest < MIN_RATIO and not _trains_more(context):
        yield Violation(
            WEIGHTS, f"the largest delta is {largest:.2g} of the weight that it is added to"
        )
        return
    kinds: dict[str, dict[str, float]] = {}
    for module, ratio in ratios.items():
        kinds.setdefault(module.rpartition(".")[2], {})[module] = ratio
    for kind, members in kinds.items():
        largest = max(members.values())
        if largest < MIN_KIND_RATIO:
            yield Violation(kind, f"the largest delta of all {kind} is {largest:.2g} of its weight")
            continue
        for module, ratio in members.items():
            if ratio < MIN_MODULE_RATIO:
                yield Violation(
                    module, f"the delta is {ratio:.2g} of the weight that it is added to"
                )


def _trains_more(context: LintContext) -> bool:
    """Whether what was trained may lie in magnitudes, biases, rows or whole modules."""
    config = context.config
    return bool(
        config.use_dora
        or config.lora_bias
        or config.trainable_token_indices
        or context.implied.saved
    )


def _weight_norm(context: LintContext, module: str) -> float:
    """Estimate the Frobenius norm of a base weight from evenly spaced rows; 0 if it has none."""
    place = context.base.tensor(module)
    if place is None or len(place[1].shape) != 2:
        return 0.0
    file, info = place
    sample = [file.tensor(info.name, rows) for rows in sample_rows(info.shape[0])]
    seen = sum(len(block) for block in sample)
    square = sum(float((block * block).sum()) for block in sample)
    return math.sqrt(square * info.shape[0] / max(1, seen))
