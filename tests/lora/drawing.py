"""Draws LoRA modules with values that are exact in a dtype, easy and extreme ones, from a seed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phi3_lora_qa.lora import Array, Factors, round_to

DTYPES = ("float32", "bfloat16", "float16")
CASES = int(os.environ.get("LORA_CASES", "120"))
"""For each dtype: ten of each of `KINDS`, and six times as many plain cases."""

SCALINGS = (2.0, 1.0, 0.5, 4 / 3, 16 / 7, -1.0, 32 / 8**0.5, 1e-2, -0.3)
KINDS = ("plain",) * 6 + ("tiny", "huge", "degenerate", "ill-conditioned", "denormal", "sparse")
POWERS = {"float32": (-60, 40), "bfloat16": (-60, 40), "float16": (-7, 5)}
DENORMAL = {"float32": -140, "bfloat16": -130, "float16": -20}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A module, its base weight, rows of inputs, and output gradients for them."""

    kind: str
    factors: Factors
    weight: Array
    x: Array
    gradient: Array


def cases(
    dtype: str, seed: int, count: int = CASES, *, extreme: bool = True
) -> Iterator[tuple[np.random.Generator, Case]]:
    """Yield cases, each with a generator for further draws.

    Without ``extreme`` the squares of the numbers stay in range, as DoRA's norms need.
    """
    for number in range(count):
        rng = np.random.default_rng([seed, number, DTYPES.index(dtype)])
        kind = KINDS[number % len(KINDS)]
        yield rng, draw(rng, dtype, kind, tame=1 if extreme else 4)


def draw(rng: np.random.Generator, dtype: str, kind: str = "plain", tame: int = 1) -> Case:
    """Draw one module of the kind, exact in the dtype, with extremes to the ``tame``-th root."""
    out, inputs, rank, rows = (int(n) for n in rng.integers([1, 1, 1, 1], [10, 10, 7, 5]))
    a, b = rng.standard_normal((rank, inputs)), rng.standard_normal((out, rank))
    w, x = rng.standard_normal((out, inputs)), rng.standard_normal((rows, inputs))
    tiny, huge = POWERS[dtype]
    if kind in ("tiny", "huge"):
        size = 2.0 ** ((tiny if kind == "tiny" else huge) / tame)
        a, b, w = a * size, b * size, w * size**2
    if kind == "degenerate":
        (a, b)[int(rng.integers(2))][...] = 0.0
    if kind == "ill-conditioned":
        b *= 2.0 ** -np.arange(0, 3 * rank, 3)
        a[:] = a[:1] + 2.0**-6 * a
    if kind == "denormal":
        b *= 2.0 ** (DENORMAL[dtype] / tame)
        w *= 2.0 ** (DENORMAL[dtype] / tame)
    if kind == "sparse":
        a *= rng.random(a.shape) < 0.5
        b *= rng.random(b.shape) < 0.5
    scaling = float(rng.choice(SCALINGS))
    factors = Factors(A=round_to(a, dtype), B=round_to(b, dtype), scaling=scaling)
    return Case(
        kind=kind,
        factors=factors,
        weight=round_to(w, dtype),
        x=round_to(x, dtype),
        gradient=round_to(rng.standard_normal((rows, out)), dtype),
    )


def with_magnitude(rng: np.random.Generator, case: Case, dtype: str) -> Case:
    """Add a DoRA magnitude near the norms of the rows, as training leaves it."""
    f = case.factors
    norms = np.linalg.norm(case.weight + f.scaling * (f.B @ f.A), axis=1)
    magnitude = round_to(norms * rng.uniform(0.5, 2.0, len(norms)), dtype)
    return replace(case, factors=replace(f, magnitude=magnitude))


def with_bias(rng: np.random.Generator, case: Case, dtype: str) -> Case:
    """Add lora_B's own bias."""
    bias = round_to(rng.standard_normal(len(case.factors.B)), dtype)
    return replace(case, factors=replace(case.factors, bias=bias))


def to_torch(values: Array, dtype: str) -> Any:
    """Return a torch tensor of values that are exact in the dtype."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype))


def to_numpy(tensor: Any) -> Array:
    """Return a tensor's values, float64."""
    import torch

    values: Array = tensor.detach().to(torch.float64).numpy()
    return values
