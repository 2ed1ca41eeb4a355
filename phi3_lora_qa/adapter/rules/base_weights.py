"""Family base: the sizes and deltas of the adapter compared with the base's weights.

Names, shapes and layer counts are checked in family tensors: with a base, the expected tensors are
derived from it. Tensors that replace the base's own (complete modules, tables, rows, magnitudes)
are compared with the base in `saved_modules`.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.base_modules import ModuleKind
from phi3_lora_qa.adapter.expected_tensors import majority_sizes
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.rules.factor_values import dead_modules

MAX_RATIO = 10.0
"""The largest ‖delta‖ / ‖W‖ of a healthy adapter, in Frobenius norms."""

MIN_RATIO = 1e-4
"""The least ‖delta‖ / ‖W‖, in Frobenius norms, of the largest delta of a trained adapter.

One step of Adam at a learning rate of 1e-4 from B = 0 changes every element of B by about 1e-4.
With r = 16 and s = 2 this makes a ratio of about 4e-4 on Phi-3-mini (‖B·A‖_F near 1e-4 ·
sqrt(out · r) · ‖a‖ with rows ‖a‖ near 0.58; ‖W‖_F near 60). A quarter of it is less than a step.
"""

MIN_KIND_RATIO = 1e-6
"""The same for modules of one kind: a hundredth of a step, because kinds may be scaled down."""

MIN_MODULE_RATIO = 1e-8
"""The same for one module: less than the rounding of its weight in float32."""


@rule(
    "base-sizes",
    severity=Severity.ERROR,
    title="The adapter's sizes match the base",
    why="Most factors in the file agree on sizes that the base does not have, so the adapter "
    "belongs to another model of the family.",
    fix="pass the base that the adapter was trained on",
    needs=["expected tensors", "base", "weights"],
)
def sizes(context: LintContext) -> Iterator[Violation]:
    """Compare the sizes on which the factors agree with the base's; report the first difference."""
    found = majority_sizes(
        context.keys.values(), context.weights.tensors, context.config.use_bdlora
    )
    for module in {m.leaf: m for m in context.base.modules.values()}.values():
        is_table = module.kind is ModuleKind.EMBEDDING
        for way, size in (("in", module.inputs), ("out", module.outputs)):
            other = found.get((module.leaf, way))
            if other and size and other != size:
                word = "rows" if is_table and way == "in" else f"{way}puts"
                yield Violation(
                    WEIGHTS,
                    f"the factors are for a {module.leaf} with {other} {word}, but the base's has "
                    f"{size}: the adapter belongs to another base",
                )
                return


@rule(
    "base-delta-size",
    severity=Severity.ERROR,
    title="No delta is much larger than the weight that it is added to",
    why="A delta many times the size of its weight replaces the base instead of adapting it. "
    "RMSNorm hides this, because it keeps the logits at a normal scale.",
    fix="train again with a lower learning rate or alpha",
    needs=["expected tensors", "base weights"],
)
def delta_size(context: LintContext) -> Iterator[Violation]:
    """Compare norms; the base's norm is estimated from some rows of each weight."""
    for module, sized in context.delta_stats.items():
        weight = context.base_norms[module]
        if weight and not sized.norm <= MAX_RATIO * weight:
            yield Violation(
                module,
                f"the delta's norm is {sized.norm:.3g}, but the weight's is only {weight:.3g}",
            )


@rule(
    "base-delta-negligible",
    severity=Severity.ERROR,
    title="The deltas are larger than a single training step would make them",
    why="Factors that were scaled down, or trained with almost no learning rate, load without an "
    "error. In effect the base runs unchanged, and merging in bfloat16 loses what little is left.",
    fix="look for a learning rate or alpha that is far too small, or for factors that were scaled "
    "during export",
    needs=["expected tensors", "base weights"],
)
def delta_negligible(context: LintContext) -> Iterator[Violation]:
    """Find an adapter, a kind of module or a module with a negligible delta."""
    dead = dead_modules(context)
    ratios = {
        module: sized.norm / weight
        for module, sized in context.delta_stats.items()
        if sized.norm and module not in dead and (weight := context.base_norms[module])
    }
    largest = max(ratios.values(), default=1.0)
    if largest < MIN_RATIO and not _trains_more(context):
        yield Violation(
            WEIGHTS, f"the largest delta is {largest:.2g} times the weight that it is added to"
        )
        return
    kinds: dict[str, dict[str, float]] = {}
    for module, ratio in ratios.items():
        kinds.setdefault(module.rpartition(".")[2], {})[module] = ratio
    for kind, members in kinds.items():
        largest = max(members.values())
        if largest < MIN_KIND_RATIO:
            yield Violation(
                kind, f"the largest delta of all {kind} is {largest:.2g} times its weight"
            )
            continue
        for module, ratio in members.items():
            if ratio < MIN_MODULE_RATIO:
                yield Violation(
                    module, f"the delta is {ratio:.2g} times the weight that it is added to"
                )


def _trains_more(context: LintContext) -> bool:
    """Whether magnitudes, biases, token rows or complete modules were trained as well."""
    config = context.config
    return bool(
        config.use_dora
        or config.lora_bias
        or config.trainable_token_indices
        or context.expected.saved
    )
