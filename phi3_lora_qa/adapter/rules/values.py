"""Family values: what the numbers say. Most of these load without a word."""

from collections.abc import Iterator
from statistics import median

from phi3_lora_qa.adapter.finding import Hit, Severity, rule
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.keys import TRAINED, Part, tensor_name
from phi3_lora_qa.adapter.subject import Subject

MAX_GAIN = 100.0
"""The largest ‖delta‖_F / sqrt(outputs) that is believed.

It is about the size of what the delta adds to an output for inputs of size one, as RMSNorm makes
them. Phi-3's own projections have 1 to 5, trained adapters 0.001 to 5, and random factors with
alpha/r = 16 about 6. Logits hide an explosion, as the next norm takes it out again.
"""

MAX_OUTLIER = 1000.0
"""How many times the median of all modules one module's gain may be, if it is above 1 too."""

MOST_SUBNORMAL = 0.9

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
def nan(subject: Subject) -> Iterator[Hit]:
    """Find NaN in any tensor."""
    for name, found in subject.measures.items():
        if found.nan:
            yield Hit(name, f"{found.nan} values are NaN")


@rule(
    "values-inf",
    severity=Severity.ERROR,
    title="No value is infinite",
    why="An infinity becomes NaN within a layer. Most often the weights "
    "overflowed when they were cast to float16 for saving.",
    fix="save in bfloat16 or float32, and lower the learning rate if the weights grow so large",
    needs=["implied"],
)
def inf(subject: Subject) -> Iterator[Hit]:
    """Find infinities in any tensor."""
    for name, found in subject.measures.items():
        if found.infinite:
            yield Hit(name, f"{found.infinite} values are infinite")


@rule(
    "values-untrained",
    severity=Severity.ERROR,
    title="The adapter changes the base",
    why="Factors that are all zero add nothing: nothing was trained, or what was trained was lost.",
    fix="look for a learning rate of 0, labels that are all -100, frozen parameters, or ZeRO-3 "
    "shards that were not gathered; then train again",
    needs=["implied"],
)
def untrained(subject: Subject) -> Iterator[Hit]:
    """Find an adapter whose every delta is exactly zero. Which factor starts at zero differs."""
    dead = dict(_dead(subject))
    if dead and len(dead) == len(subject.implied.targeted):
        cause = next(iter(dead.values()))
        yield Hit(WEIGHTS, f"every module's delta is zero ({cause}): it is the bare base")


@rule(
    "values-dead-module",
    severity=Severity.ERROR,
    title="Every adapted module is changed",
    why="Some modules were trained and others not at all: their gradients never arrived, or their "
    "tensors were lost and filled with start values.",
    fix="leave the modules out of target_modules, or find out why they got no gradient",
    needs=["implied"],
)
def dead_module(subject: Subject) -> Iterator[Hit]:
    """Find single modules whose delta is exactly zero."""
    dead = dict(_dead(subject))
    if 0 < len(dead) < len(subject.implied.targeted):
        for module, cause in dead.items():
            yield Hit(module, f"the delta is zero: {cause}")


@rule(
    "values-constant",
    severity=Severity.ERROR,
    title="No LoRA tensor holds one number only",
    why="Training never makes all numbers of a factor equal: the tensor was filled by a program.",
    fix="take the tensor from the training output again",
    needs=["implied"],
)
def constant(subject: Subject) -> Iterator[Hit]:
    """Find constant fill in the LoRA tensors."""
    for name, found in subject.measures.items():
        if found.constant and subject.keys[name].part in TRAINED:
            yield Hit(name, "all values are one and the same number")


@rule(
    "values-copied",
    severity=Severity.ERROR,
    title="No two modules have the same B",
    why="Training never gives two modules the same numbers: a layer was written twice, and another "
    "one is lost.",
    fix="take the tensors from the training output again",
    needs=["implied"],
)
def copied(subject: Subject) -> Iterator[Hit]:
    """Find trained factors that are bit for bit those of another module."""
    seen: dict[tuple[float, tuple[int, ...]], str] = {}
    for module in subject.implied.targeted:
        pair = subject.factors(module)
        if pair is None or pair[1].zero or not pair[1].finite:
            continue
        name = _b_name(subject, module)
        info = subject.info(subject.keys[name])
        first = seen.setdefault((pair[1].norm, info.shape), name)
        if first != name and _equal(subject, first, name):
            yield Hit(name, f"it is a copy of {first}")


@rule(
    "values-float16-clipped",
    severity=Severity.ERROR,
    title="No value was clipped to float16's range",
    why="A value at 65504 was larger when it was trained: the file holds another adapter.",
    fix="save in bfloat16 or float32, and lower the learning rate if the weights grow so large",
    needs=["implied"],
)
def float16_clipped(subject: Subject) -> Iterator[Hit]:
    """Find values that sit at float16's largest number."""
    for name, found in subject.measures.items():
        if found.clipped:
            yield Hit(name, f"{found.clipped} values are at float16's limit of 65504")


@rule(
    "values-float16-subnormal",
    severity=Severity.WARNING,
    title="The values are not too small for float16",
    why="Below 6e-5 float16 has fewer and fewer bits: a short training's B can lose most of them.",
    fix="save in bfloat16 or float32",
    needs=["implied"],
)
def float16_subnormal(subject: Subject) -> Iterator[Hit]:
    """Find an adapter most of whose factors lie below float16's normal numbers."""
    small = [name for name, found in subject.measures.items() if found.subnormal > MOST_SUBNORMAL]
    if small:
        share = subject.measures[small[0]].subnormal
        yield Hit(small[0], f"{share:.0%} of its values are below float16's normal numbers")


@rule(
    "values-explosion",
    severity=Severity.ERROR,
    title="No delta is larger than any healthy one",
    why="Weights that grew without bound hide from the logits: the next norm takes the size out.",
    fix="train again with a lower learning rate or alpha, and with max_grad_norm",
    needs=["implied"],
)
def explosion(subject: Subject) -> Iterator[Hit]:
    """Find deltas with a gain above `MAX_GAIN`, or far above all others of the adapter."""
    gains = _gains(subject)
    alive = [gain for gain in gains.values() if gain > 0]
    middle = median(alive) if len(alive) >= 4 else float("inf")
    for module, gain in gains.items():
        if not gain <= MAX_GAIN:
            yield Hit(module, f"the delta's gain is {gain:.3g}, above {MAX_GAIN:g}")
        elif gain > 1 and gain > MAX_OUTLIER * middle:
            yield Hit(module, f"the delta's gain is {gain:.3g}, the others' is about {middle:.2g}")


@rule(
    "values-rank-collapse",
    severity=Severity.WARNING,
    title="The deltas use more than one direction",
    why="If one singular value outweighs all others, the adapter has learned one thing at most: "
    "often too high a learning rate, or far too few steps.",
    fix="compare with an earlier checkpoint; a rank of 1 would do the same",
    needs=["implied"],
)
def rank_collapse(subject: Subject) -> Iterator[Hit]:
    """Find an adapter most of whose deltas have practically rank one."""
    ranks = {module: subject.matching.rank(module) for module in subject.deltas}
    used = [
        delta.effective_rank
        for module, delta in subject.deltas.items()
        if ranks[module] >= 4 and delta.effective_rank is not None
    ]
    collapsed = [effective for effective in used if effective < _COLLAPSED]
    if len(collapsed) > len(used) / 2:
        yield Hit(WEIGHTS, f"{len(collapsed)} of {len(used)} deltas have practically rank one")


@rule(
    "values-magnitude",
    severity=Severity.ERROR,
    title="No DoRA magnitude vector is zero",
    why="A magnitude of zero switches its whole module off, base included.",
    fix="take the magnitudes from the training output again",
    needs=["implied"],
)
def magnitude(subject: Subject) -> Iterator[Hit]:
    """Find magnitude vectors that are all zero."""
    for name, found in subject.measures.items():
        if subject.keys[name].part is Part.MAGNITUDE and found.zero:
            yield Hit(name, "all magnitudes are zero")


def _dead(subject: Subject) -> Iterator[tuple[str, str]]:
    """Yield the adapted modules whose delta is exactly zero, with the reason."""
    for module in subject.implied.targeted:
        pair = subject.factors(module)
        if pair and all(found.finite for found in pair):
            zeros = [name for name, found in zip("AB", pair, strict=True) if found.zero]
            if zeros:
                yield module, f"{' and '.join(zeros)} {'is' if len(zeros) == 1 else 'are'} zero"


def _b_name(subject: Subject, module: str) -> str:
    name = tensor_name(module, Part.B)
    return name if name in subject.measures else tensor_name(module, Part.EMBEDDING_B)


def _equal(subject: Subject, first: str, second: str) -> bool:
    one, other = (subject.weights.tensor(subject.keys[name].name) for name in (first, second))
    return bool((one == other).all())


def _gains(subject: Subject) -> dict[str, float]:
    modules = subject.implied.targeted
    return {
        name: delta.norm / (modules[name].outputs or 1) ** 0.5
        for name, delta in subject.deltas.items()
    }
