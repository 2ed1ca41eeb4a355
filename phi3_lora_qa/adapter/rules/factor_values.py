"""Family values: faults in the numbers of the factors, most of which load silently.

`non_factor_weights` checks complete modules, rows and magnitudes, `duplicate_modules` copies, and
`corruption` damage within a factor.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.base_modules import ModuleKind
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.tensor_names import FACTORS, TRAINED, Part

MAX_GAIN = 100.0
"""The largest plausible gain, ‖delta‖_F / sqrt(outputs).

It is about the size of the delta's contribution to an output if inputs have size one, as after
RMSNorm. Phi-3's own projections have 1 to 5, trained adapters 0.001 to 5, and random factors with
alpha/r = 16 about 6. The logits hide an explosion, because the next norm removes the scale.
"""

MIN_GAIN = 1e-10
"""The smallest gain, ‖delta‖_F / sqrt(outputs), that has an effect.

Phi-3's rows have norms of 1 to 5, and float32 resolves 6e-8 of them: a delta hundreds of times
smaller is lost in the sum in every dtype. One step of Adam at a learning rate of 1e-5 leaves 1e-5.
"""

MAX_OUTLIER = 1000.0
"""The largest ratio of a module's gain to the median of all modules, if the gain exceeds 1."""

MOST_SUBNORMAL = 0.9

LARGEST_FLOAT16, SMALLEST_FLOAT16 = 65504.0, 2.0**-14
"""The largest number of float16, and the smallest one with full precision."""

MIN_TAIL = 16
"""The least number of zeros at a tensor's end that counts; trained numbers are never zero."""

_COLLAPSED = 1.00005
"""An effective rank below this means that no other singular value is 1/200 of the largest."""


@rule(
    "values-nan",
    severity=Severity.ERROR,
    title="No value is NaN",
    why="One NaN makes every logit NaN. The training diverged, even if the job succeeded.",
    fix="train again with a lower learning rate, in bfloat16 rather than float16, or use an "
    "earlier checkpoint",
    needs=["expected tensors"],
)
def nan(context: LintContext) -> Iterator[Violation]:
    """Find NaN in any tensor."""
    for name, found in context.tensor_stats.items():
        if found.nan:
            yield Violation(name, f"{found.nan} of {found.size} values are NaN")


@rule(
    "values-inf",
    severity=Severity.ERROR,
    title="No value is infinite",
    why="An infinity becomes NaN within a layer. Usually the weights overflowed when they were "
    "cast to float16 for saving.",
    fix="save in bfloat16 or float32, and lower the learning rate if the weights grow this large",
    needs=["expected tensors"],
)
def inf(context: LintContext) -> Iterator[Violation]:
    """Find infinities in any tensor."""
    for name, found in context.tensor_stats.items():
        if found.infinite:
            yield Violation(name, f"{found.infinite} of {found.size} values are infinite")


@rule(
    "values-untrained",
    severity=Severity.ERROR,
    title="The adapter changes the base",
    why="If every delta is zero, or too small to survive rounding in any dtype, the base runs "
    "unchanged: nothing was trained, or what was trained was lost.",
    fix="look for a learning rate or alpha close to 0, labels that are all -100, frozen "
    "parameters, or ZeRO-3 shards that were not gathered; then train again",
    needs=["expected tensors"],
)
def untrained(context: LintContext) -> Iterator[Violation]:
    """Find an adapter whose deltas are all zero. Which factor starts at zero differs by method."""
    dead = dead_modules(context)
    if dead and len(dead) == len(context.expected.targeted):
        cause = next(iter(dead.values()))
        yield Violation(WEIGHTS, f"every module's delta is zero ({cause}): the base runs unchanged")


@rule(
    "values-dead-module",
    severity=Severity.ERROR,
    title="Every adapted module has a nonzero delta",
    why="Some modules were trained and others were not: their gradients never arrived, or their "
    "tensors were lost and filled with initial values.",
    fix="remove the modules from target_modules, or find out why they got no gradient",
    needs=["expected tensors"],
)
def dead_module(context: LintContext) -> Iterator[Violation]:
    """Find single modules whose delta is zero."""
    dead = dead_modules(context)
    if 0 < len(dead) < len(context.expected.targeted):
        for module, cause in dead.items():
            yield Violation(module, f"the delta is zero: {cause}")


@rule(
    "values-constant",
    severity=Severity.ERROR,
    title="No tensor contains a fill pattern",
    why="Training never leaves the same number everywhere, or numbers that grow by a constant "
    "step. The trained values are missing.",
    fix="copy the tensor from the training output again",
    needs=["expected tensors"],
)
def constant(context: LintContext) -> Iterator[Violation]:
    """Find constant values in trained tensors, and ramps in the factors.

    The weights of a norm may all be one.
    """
    for name, found in context.tensor_stats.items():
        part, module = context.keys[name].part, context.keys[name].module
        is_norm = context.expected.modules[module].kind is ModuleKind.NORM
        whole = part in (Part.WEIGHT, Part.BASE_WEIGHT) and not is_norm
        if found.is_constant and (part in TRAINED or whole):
            yield Violation(name, "all values are the same number")
        elif found.is_ramp:
            yield Violation(name, "the values are constant, or grow by a constant step")


@rule(
    "values-zero-tail",
    severity=Severity.ERROR,
    title="No factor A ends in zeros",
    why="A starts with random numbers, which training never makes exactly zero. The file was not "
    "written completely, or a buffer was not filled, and the rest of the training is lost.",
    fix="copy the tensor from the training output again",
    needs=["expected tensors"],
)
def zero_tail(context: LintContext) -> Iterator[Violation]:
    """Find a linear module's A that ends in zeros while B's columns are not zero.

    Padded ranks are zero in both factors. Pruned ranks, as in converted AdaLoRA, occur anywhere
    and in many modules; nothing is reported if there are any.
    """
    idle = {module: _idle_ranks(context, module) for module in context.expected.targeted}
    torn = {module: _zero_rows(context, module, ranks) for module, ranks in idle.items()}
    found = {module: rows for module, rows in torn.items() if rows}
    anywhere = any(ranks and not torn[module] for module, ranks in idle.items())
    if 2 * len(found) < len(idle) and not anywhere:
        for module, rows in found.items():
            yield Violation(
                module, f"the last {rows:.3g} rows of A are zero, but B's columns are not"
            )


@rule(
    "values-float16-clipped",
    severity=Severity.ERROR,
    title="No value was clipped to float16's range",
    why="A value of 65504 was larger in training, so the file contains a different adapter.",
    fix="save in bfloat16 or float32, and lower the learning rate if the weights grow this large",
    needs=["expected tensors"],
)
def float16_clipped(context: LintContext) -> Iterator[Violation]:
    """Find values equal to float16's largest number."""
    for name, found in context.tensor_stats.items():
        if found.clipped:
            yield Violation(name, f"{found.clipped} values are at float16's limit of 65504")


@rule(
    "values-float16-subnormal",
    severity=Severity.WARNING,
    title="The values are not too small for float16",
    why="Below 6e-5 float16 loses precision. After a short training, B can lose most of its bits.",
    fix="save in bfloat16 or float32",
    needs=["expected tensors"],
)
def float16_subnormal(context: LintContext) -> Iterator[Violation]:
    """Find an adapter most of whose factors are below float16's normal range."""
    small = [
        name for name, found in context.tensor_stats.items() if found.subnormal > MOST_SUBNORMAL
    ]
    if small:
        share = context.tensor_stats[small[0]].subnormal
        yield Violation(small[0], f"{share:.0%} of its values are below float16's normal range")


@rule(
    "values-float16-range",
    severity=Severity.INFO,
    title="The factors fit in float16",
    why="vLLM and llama.cpp can store an adapter in float16, whose range ends at 65504 and which "
    "loses precision below 6e-5. Each factor can be out of range even if their product is not.",
    fix="serve it in bfloat16 or float32, or move a constant factor from A to B or from B to A",
    needs=["expected tensors"],
)
def float16_range(context: LintContext) -> Iterator[Violation]:
    """Find factors mostly outside float16's range, unless they are stored in float16."""
    for name, found in context.tensor_stats.items():
        key = context.keys[name]
        if key.part not in FACTORS or context.info(key).dtype == "F16" or not found.is_finite:
            continue
        largest = max(-found.lowest, found.highest)
        if largest > LARGEST_FLOAT16:
            yield Violation(name, f"its largest number, {largest:.3g}, becomes infinite in float16")
        elif 0 < found.rms < SMALLEST_FLOAT16:
            yield Violation(
                name,
                f"its numbers, about {found.rms:.2g}, lose precision or become zero in float16",
            )


@rule(
    "values-explosion",
    severity=Severity.ERROR,
    title="No delta is larger than in any healthy adapter",
    why="Weights that grew without bound do not show in the logits, because the next norm removes "
    "the scale.",
    fix="train again with a lower learning rate or alpha, and with max_grad_norm",
    needs=["expected tensors"],
)
def explosion(context: LintContext) -> Iterator[Violation]:
    """Find deltas with a gain above `MAX_GAIN`, or far above all others of the adapter."""
    gains = {module: _gain(context, module) for module in context.delta_stats}
    alive = sorted(gain for gain in gains.values() if gain > 0)
    middle = alive[len(alive) // 2] if len(alive) >= 4 else float("inf")
    for module, gain in gains.items():
        if not gain <= MAX_GAIN:
            yield Violation(module, f"the delta's gain is {gain:.3g}, above {MAX_GAIN:g}")
        elif gain > 1 and gain > MAX_OUTLIER * middle:
            yield Violation(
                module, f"the delta's gain is {gain:.3g}, but the median is {middle:.2g}"
            )


@rule(
    "values-rank-collapse",
    severity=Severity.WARNING,
    title="The deltas use more than one direction",
    why="If one singular value outweighs all others, the adapter has learned at most one thing. "
    "Often the learning rate was too high or there were far too few steps.",
    fix="compare with an earlier checkpoint; a rank of 1 would do the same",
    needs=["expected tensors"],
)
def rank_collapse(context: LintContext) -> Iterator[Violation]:
    """Find an adapter most of whose deltas have an effective rank of one.

    Ranks that are zero in a factor do not count, since padding to a larger rank adds them.
    """
    ranks = {module: _used_ranks(context, module) for module in context.delta_stats}
    used = [
        delta.effective_rank
        for module, delta in context.delta_stats.items()
        if ranks[module] >= 4 and delta.effective_rank is not None
    ]
    collapsed = [effective for effective in used if effective < _COLLAPSED]
    if len(collapsed) > len(used) / 2:
        yield Violation(
            WEIGHTS, f"{len(collapsed)} of {len(used)} deltas have an effective rank of one"
        )


def dead_modules(context: LintContext) -> dict[str, str]:
    """Return the adapted modules with a zero delta, each with the cause, unless that is alpha."""
    dead = {}
    for module in context.expected.targeted:
        pair, sized = context.factors(module), context.delta_stats.get(module)
        if pair is None or sized is None:
            continue
        zeros = [name for name, found in zip("AB", pair, strict=True) if found.is_zero]
        gain = _gain(context, module)
        if zeros:
            dead[module] = f"{' and '.join(zeros)} {'is' if len(zeros) == 1 else 'are'} zero"
        elif sized.is_cancelled:
            dead[module] = "the product of A and B cancels to zero"
        elif gain < MIN_GAIN and context.matching.alpha(module) != 0:
            dead[module] = f"its gain is only {gain:.3g}, because a factor or alpha is almost zero"
    return dead


def _used_ranks(context: LintContext, module: str) -> int:
    """Count the ranks that are zero in neither factor."""
    pair = context.factors(module)
    if pair is None or pair[0].gram is None or pair[1].gram is None:
        return context.matching.rank(module)
    a, b = (found.gram.diagonal() for found in pair if found.gram is not None)
    return int(((a > 0) & (b > 0)).sum()) if len(a) == len(b) else context.matching.rank(module)


def _idle_ranks(context: LintContext, module: str) -> int:
    """Count the zero rows of A whose columns of B are not zero (or do not correspond to ranks)."""
    pair = context.factors(module)
    if pair is None or pair[0].gram is None or pair[1].gram is None:
        return 0
    a, b = (found.gram.diagonal() for found in pair if found.gram is not None)
    return sum(not size and (len(b) != len(a) or bool(b[at])) for at, size in enumerate(a))


def _zero_rows(context: LintContext, module: str, idle: int) -> float:
    """Return the number of rows at the end of A that are zero without a reason."""
    pair = context.factors(module)
    if pair is None or pair[0].gram is None or pair[0].trailing_zeros < MIN_TAIL:
        return 0.0
    rows = pair[0].trailing_zeros * len(pair[0].gram) / pair[0].size
    return rows if idle == int(rows) else 0.0


def _gain(context: LintContext, module: str) -> float:
    outputs = context.expected.targeted[module].outputs or 1
    return float(context.delta_stats[module].norm / outputs**0.5)
