"""Family values: tensors that are copies of another module's, which training never produces."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.architecture import FUSED_OF
from phi3_lora_qa.adapter.expected_tensors import TABLES
from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.tensor_names import FACTORS, Part, TensorKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MIN_SHARE = 0.9
"""The least share of numbers that agree (up to one factor) if a tensor is a copy of another.

In two tensors that were trained separately, about one number in 1,000 agrees to within 0.1 %.
"""

_AGREE = 1e-3
_ONE_SIZE = 0.05
_SIGNS = 0.8
_CANDIDATES = 4


@dataclass(frozen=True)
class _Copy:
    name: str
    first: str


@rule(
    "values-copied",
    severity=Severity.ERROR,
    title="No two modules have the same A, B, bias, magnitudes or complete weight",
    why="Training never gives two modules the same numbers: one layer was written twice, and "
    "another was lost.",
    fix="copy the tensors from the training output again",
    needs=["expected tensors"],
)
def copied(context: LintContext) -> Iterator[Violation]:
    """Find tensors equal to another module's, up to some elements or one factor."""
    copies = list(_copies(context))
    by_kind, by_projection = _is_shared(context, copies), _is_cut(context, copies)
    for copy in copies:
        one, other = context.keys[copy.first], context.keys[copy.name]
        same_projection = by_projection and _projection(one.module) == _projection(other.module)
        if not (other.part is Part.A and (by_kind or same_projection)):
            yield Violation(copy.name, f"copy of {copy.first}")


@rule(
    "values-shared-a",
    severity=Severity.WARNING,
    title="Every module has its own A",
    why="peft trains one A for each module. Methods that share one A over all layers (VeRA, "
    "ShareLoRA) can be written as LoRA; otherwise each layer's own A was lost.",
    fix="copy the tensors from the training output again, unless A was shared on purpose",
    needs=["expected tensors"],
)
def shared_a(context: LintContext) -> Iterator[Violation]:
    """Find one A in all layers, for each kind of module."""
    copies = list(_copies(context))
    if _is_shared(context, copies):
        yield Violation(WEIGHTS, "in each kind of module, all modules have the same A")


def _is_shared(context: LintContext, copies: list[_Copy]) -> bool:
    """Whether all layers share one A, for every kind of module."""
    kinds: dict[str, list[str]] = {}
    for name, key in context.keys.items():
        if key.part is Part.A and name in context.tensor_stats:
            kinds.setdefault(key.module.rpartition(".")[2], []).append(name)
    several = [names for names in kinds.values() if len(names) > 1]
    same = {copy.name for copy in copies}
    return bool(several) and all(name in same for names in several for name in names[1:])


def _is_cut(context: LintContext, copies: list[_Copy]) -> bool:
    """Whether the adapter of a fused base was cut into q, k, v and gate, up: these share one A.

    That holds in every layer or in none: a single copy is a fault.
    """
    groups: dict[str, list[str]] = {}
    for name, key in context.keys.items():
        if key.part is Part.A and (projection := _projection(key.module)):
            groups.setdefault(projection, []).append(name)
    same = {copy.name for copy in copies}
    several = [names for names in groups.values() if len(names) > 1]
    layers = {projection.rpartition(".")[0] for projection in groups}
    return len(layers) > 1 and all(len(same & {*names}) == len(names) - 1 for names in several)


def _projection(module: str) -> str:
    """Return the fused projection that a split one is a part of; empty for other modules."""
    parent, _, leaf = module.rpartition(".")
    return f"{parent}.{FUSED_OF[leaf]}" if leaf in FUSED_OF else ""


def _copies(context: LintContext) -> Iterator[_Copy]:
    groups: dict[tuple[Part, tuple[int, ...]], list[str]] = {}
    for name, found in context.tensor_stats.items():
        key = context.keys[name]
        shape = context.info(key).shape
        if _must_be_unique(key, shape) and found.is_finite and not found.is_zero:
            groups.setdefault((key.part, shape), []).append(name)
    for (part, _), names in groups.items():
        if len(names) > 1:
            yield from _copies_among(context, names, exact=part not in FACTORS)


def _must_be_unique(key: TensorKey, shape: tuple[int, ...]) -> bool:
    """Whether training gives a tensor numbers that no other tensor has.

    The weights of norms may all be one, and tied tables are equal.
    """
    if key.part is Part.WEIGHT:
        return len(shape) == 2 and not key.module.endswith(TABLES)
    return key.part in (*FACTORS, Part.MAGNITUDE, Part.B_BIAS)


def _copies_among(context: LintContext, names: list[str], *, exact: bool) -> Iterator[_Copy]:
    """Compare samples, and complete tensors only if the samples agree."""
    import numpy as np

    @lru_cache(maxsize=4)
    def whole(name: str) -> "Numbers":
        return context.tensor(name).reshape(-1).astype(np.float64)

    samples = np.stack([context.tensor_stats[name].samples for name in names])
    signs = np.sign(samples)
    used = np.abs(signs).sum(axis=1)
    for at in range(1, len(names)):
        agreement = np.abs(signs[:at] @ signs[at]) / np.maximum(used[:at], used[at]).clip(1)
        likely = [n for n in np.argsort(-agreement, kind="stable") if agreement[n] > _SIGNS]
        if exact:
            likely = list(np.flatnonzero((samples[:at] == samples[at]).mean(axis=1) > MIN_SHARE))
        for first in likely[:_CANDIDATES]:
            one, other = names[first], names[at]
            if _agree(samples[first], samples[at], exact=exact) and _agree(
                whole(one), whole(other), exact=exact
            ):
                yield _Copy(other, one)
                break


def _agree(one: "Numbers", other: "Numbers", *, exact: bool) -> bool:
    """Whether almost all numbers of one tensor are those of the other times one factor.

    One step of Adam from zero leaves numbers of equal size that differ only in sign. Two such
    tensors can agree in many places, so they count only if they are equal everywhere.
    """
    import numpy as np

    both, either = (one != 0) & (other != 0), (one != 0) | (other != 0)
    if not both.any():
        return False
    sizes = np.abs(other[both]) / np.abs(other).max()
    if exact or sizes.std() < _ONE_SIZE * sizes.mean():
        return bool(np.array_equal(one, other))
    with np.errstate(over="ignore", invalid="ignore"):  # float64 files hold numbers of any size
        factor = float(np.median(other[both] / one[both]))
        near = np.abs(other - factor * one)[either] <= _AGREE * np.abs(factor * one)[either]
    return bool(near.mean() > MIN_SHARE)
