"""Family values: what the numbers say, of the factors above all. Most of these load without a word.

What is said of whole modules, rows and magnitudes stands in `whole`, of copies in `copies`.
"""

from collections.abc import Iterator

from phi3_lora_qa.adapter.base_files import ModuleKind
from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.tensor_names import FACTORS, TRAINED, Part

MAX_GAIN = 100.0
"""The largest ‖delta‖_F / sqrt(outputs) that is believed.

It is about the size of what the delta adds to an output for inputs of size one, as RMSNorm makes
them. Phi-3's own projections have 1 to 5, trained adapters 0.001 to 5, and random factors with
alpha/r = 16 about 6. Logits hide an explosion, as the next norm takes it out again.
"""

MIN_GAIN = 1e-10
"""The smallest ‖delta‖_F / sqrt(outputs) that does anything.

Phi-3's rows have norms of 1 to 5, and float32 keeps 6e-8 of them: a delta hundreds of times smaller
is lost in the sum, in every dtype. The first step of Adam at a learning rate of 1e-5 leaves 1e-5.
"""

MAX_OUTLIER = 1000.0
"""How many times the median of all modules one module's gain may be, if it is above 1 too."""

MOST_SUBNORMAL = 0.9

LARGEST_FLOAT16, SMALLEST_FLOAT16 = 65504.0, 2.0**-14
"""The largest number of float16, and the smallest that keeps all of its bits."""

MIN_TAIL = 16
"""How many zeros at a tensor's end are no chance; a trained number is never exactly zero."""

_COLLAPSED = 1.00005
"""An effective rank below this means that no other singular value is 1/200 of the largest."""


@rule(
    "values-nan",
    severity=Severity.ERROR,
    title="No value is NaN",
    why="One NaN makes every logit NaN. Training diverged, though the job may have succeeded.",
    fix="train again with a lower learning rate, in bfloat16 rather than float16; take an earlier "
    "checkpoint",
    needs=["implied"],
)
def nan(context: LintContext) -> Iterator[Violation]:
    """Find NaN in any tensor."""
    for name, found in context.measures.items():
        if found.nan:
            yield Violation(name, f"{found.nan} values are NaN")


@rule(
    "values-inf",
    severity=Severity.ERROR,
    title="No value is infinite",
    why="An infinity becomes NaN within a layer. Most often the weights "
    "overflowed when they were cast to float16 for saving.",
    fix="save in bfloat16 or float32, and lower the learning rate if the weights grow so large",
    needs=["implied"],
)
def inf(context: LintContext) -> Iterator[Violation]:
    """Find infinities in any tensor."""
    for name, found in context.measures.items():
        if found.infinite:
            yield Violation(name, f"{found.infinite} values are infinite")


@rule(
    "values-untrained",
    severity=Severity.ERROR,
    title="The adapter changes the base",
    why="Where every delta is zero, or so small that no dtype keeps it beside its weight, what "
    "runs is the bare base: nothing was trained, or what was trained was lost.",
    fix="look for a learning rate or alpha of next to 0, labels that are all -100, frozen "
    "parameters, or ZeRO-3 shards that were not gathered; then train again",
    needs=["implied"],
)
def untrained(context: LintContext) -> Iterator[Violation]:
    """Find an adapter whose every delta is nothing. Which factor starts at zero differs."""
    dead = dead_modules(context)
    if dead and len(dead) == len(context.implied.targeted):
        cause = next(iter(dead.values()))
        yield Violation(WEIGHTS, f"every module's delta is zero ({cause}): it is the bare base")


@rule(
    "values-dead-module",
    severity=Severity.ERROR,
    title="Every adapted module is changed",
    why="Some modules were trained and others not at all: their gradients never arrived, or their "
    "tensors were lost and filled with start values.",
    fix="leave the modules out of target_modules, or find out why they got no gradient",
    needs=["implied"],
)
def dead_module(context: LintContext) -> Iterator[Violation]:
    """Find single modules whose delta is nothing."""
    dead = dead_modules(context)
    if 0 < len(dead) < len(context.implied.targeted):
        for module, cause in dead.items():
            yield Violation(module, f"the delta is zero: {cause}")


@rule(
    "values-constant",
    severity=Severity.ERROR,
    title="No tensor was filled by a program",
    why="Training never leaves one number everywhere, nor numbers that grow by one step from place "
    "to place: what was trained is not there.",
    fix="take the tensor from the training output again",
    needs=["implied"],
)
def constant(context: LintContext) -> Iterator[Violation]:
    """Find constant fill in what was trained, and ramps in the factors.

    A norm's weights may well be all one.
    """
    for name, found in context.measures.items():
        part, module = context.keys[name].part, context.keys[name].module
        is_norm = context.implied.modules[module].kind is ModuleKind.NORM
        whole = part in (Part.WEIGHT, Part.BASE_WEIGHT) and not is_norm
        if found.is_constant and (part in TRAINED or whole):
            yield Violation(name, "all values are one and the same number")
        elif found.is_ramp:
            yield Violation(name, "its values are constant, or grow by one and the same step")


@rule(
    "values-zero-tail",
    severity=Severity.ERROR,
    title="No A ends in zeros",
    why="Nothing that begins as random numbers becomes exactly zero: the file was not written to "
    "its end, or a buffer was not filled, and the rest of what was trained is lost.",
    fix="take the tensor from the training output again",
    needs=["implied"],
)
def zero_tail(context: LintContext) -> Iterator[Violation]:
    """Find a linear module's A of which the rest is dense, and the end zero where B's is not.

    Ranks that are padded are zero in both factors. Ranks that were switched off, as in what was
    AdaLoRA, stand anywhere, and in many modules: nothing is told where they do.
    """
    idle = {module: _idle_ranks(context, module) for module in context.implied.targeted}
    torn = {module: _zero_rows(context, module, ranks) for module, ranks in idle.items()}
    found = {module: rows for module, rows in torn.items() if rows}
    anywhere = any(ranks and not torn[module] for module, ranks in idle.items())
    if 2 * len(found) < len(idle) and not anywhere:
        for module, rows in found.items():
            yield Violation(
                module, f"the last {rows:.3g} rows of A are zero, and B's columns are not"
            )


@rule(
    "values-float16-clipped",
    severity=Severity.ERROR,
    title="No value was clipped to float16's range",
    why="A value at 65504 was larger when it was trained: the file holds another adapter.",
    fix="save in bfloat16 or float32, and lower the learning rate if the weights grow so large",
    needs=["implied"],
)
def float16_clipped(context: LintContext) -> Iterator[Violation]:
    """Find values that sit at float16's largest number."""
    for name, found in context.measures.items():
        if found.clipped:
            yield Violation(name, f"{found.clipped} values are at float16's limit of 65504")


@rule(
    "values-float16-subnormal",
    severity=Severity.WARNING,
    title="The values are not too small for float16",
    why="Below 6e-5 float16 has fewer and fewer bits: a short training's B can lose most of them.",
    fix="save in bfloat16 or float32",
    needs=["implied"],
)
def float16_subnormal(context: LintContext) -> Iterator[Violation]:
    """Find an adapter most of whose factors lie below float16's normal numbers."""
    small = [name for name, found in context.measures.items() if found.subnormal > MOST_SUBNORMAL]
    if small:
        share = context.measures[small[0]].subnormal
        yield Violation(small[0], f"{share:.0%} of its values are below float16's normal numbers")


@rule(
    "values-float16-range",
    severity=Severity.INFO,
    title="The factors keep their numbers in float16",
    why="vLLM and llama.cpp can hold an adapter in float16, whose numbers end at 65504 and lose "
    "bits below 6e-5: factors that are right together need not be each.",
    fix="serve it in bfloat16 or float32, or move a factor of A into B, or the other way round",
    needs=["implied"],
)
def float16_range(context: LintContext) -> Iterator[Violation]:
    """Find factors whose numbers are mostly beyond float16's; what is stored in it has its own."""
    for name, found in context.measures.items():
        key = context.keys[name]
        if key.part not in FACTORS or context.info(key).dtype == "F16" or not found.is_finite:
            continue
        largest = max(-found.lowest, found.highest)
        if largest > LARGEST_FLOAT16:
            yield Violation(name, f"its largest number, {largest:.3g}, becomes infinite")
        elif 0 < found.rms < SMALLEST_FLOAT16:
            yield Violation(
                name, f"its numbers, of about {found.rms:.2g}, lose bits or become zero"
            )


@rule(
    "values-explosion",
    severity=Severity.ERROR,
    title="No delta is larger than any healthy one",
    why="Weights that grew without bound hide from the logits: the next norm takes the size out.",
    fix="train again with a lower learning rate or alpha, and with max_grad_norm",
    needs=["implied"],
)
def explosion(context: LintContext) -> Iterator[Violation]:
    """Find deltas with a gain above `MAX_GAIN`, or far above all others of the adapter."""
    gains = {module: _gain(context, module) for module in context.deltas}
    alive = sorted(gain for gain in gains.values() if gain > 0)
    middle = alive[len(alive) // 2] if len(alive) >= 4 else float("inf")
    for module, gain in gains.items():
        if not gain <= MAX_GAIN:
            yield Violation(module, f"the delta's gain is {gain:.3g}, above {MAX_GAIN:g}")
        elif gain > 1 and gain > MAX_OUTLIER * middle:
            yield Violation(
                module, f"the delta's gain is {gain:.3g}, the others' is about {middle:.2g}"
            )


@rule(
    "values-rank-collapse",
    severity=Severity.WARNING,
    title="The deltas use more than one direction",
    why="If one singular value outweighs all others, the adapter has learned one thing at most: "
    "often too high a learning rate, or far too few steps.",
    fix="compare with an earlier checkpoint; a rank of 1 would do the same",
    needs=["implied"],
)
def rank_collapse(context: LintContext) -> Iterator[Violation]:
    """Find an adapter most of whose deltas have practically rank one."""
    ranks = {module: context.matching.rank(module) for module in context.deltas}
    used = [
        delta.effective_rank
        for module, delta in context.deltas.items()
        if ranks[module] >= 4 and delta.effective_rank is not None
    ]
    collapsed = [effective for effective in used if effective < _COLLAPSED]
    if len(collapsed) > len(used) / 2:
        yield Violation(
            WEIGHTS, f"{len(collapsed)} of {len(used)} deltas have practically rank one"
        )


def dead_modules(context: LintContext) -> dict[str, str]:
    """Return the adapted modules whose delta is nothing, with the reason; not what alpha = 0 is."""
    dead = {}
    for module in context.implied.targeted:
        pair, sized = context.factors(module), context.deltas.get(module)
        if pair is None or sized is None:
            continue
        zeros = [name for name, found in zip("AB", pair, strict=True) if found.is_zero]
        gain = _gain(context, module)
        if zeros:
            dead[module] = f"{' and '.join(zeros)} {'is' if len(zeros) == 1 else 'are'} zero"
        elif sized.is_cancelled:
            dead[module] = "A and B are there, and their product cancels"
        elif gain < MIN_GAIN and context.matching.alpha(module) != 0:
            dead[module] = f"its gain is {gain:.3g}, from next to nothing as factor or alpha"
    return dead


def _idle_ranks(context: LintContext, module: str) -> int:
    """Count the rows of A that are zero where B's columns are not (or are not columns of ranks)."""
    pair = context.factors(module)
    if pair is None or pair[0].gram is None or pair[1].gram is None:
        return 0
    a, b = (found.gram.diagonal() for found in pair if found.gram is not None)
    return sum(not size and (len(b) != len(a) or bool(b[at])) for at, size in enumerate(a))


def _zero_rows(context: LintContext, module: str, idle: int) -> float:
    """Return how many rows at the end of A are zero for no reason; 0 if there are none."""
    pair = context.factors(module)
    if pair is None or pair[0].gram is None or pair[0].trailing_zeros < MIN_TAIL:
        return 0.0
    rows = pair[0].trailing_zeros * len(pair[0].gram) / pair[0].size
    return rows if idle == int(rows) else 0.0


def _gain(context: LintContext, module: str) -> float:
    outputs = context.implied.targeted[module].outputs or 1
    return float(context.deltas[module].norm / outputs**0.5)
