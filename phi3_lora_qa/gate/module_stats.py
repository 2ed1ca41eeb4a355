"""The math stage's measurements of each adapted module, in one pass over the base's weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from phi3_lora_qa.gate.adapted_layers import LoraLayer, Rows
from phi3_lora_qa.lora import (
    Array,
    Factors,
    delta,
    delta_bound,
    forward_bound,
    gamma,
    output,
    ratios,
    singular_values,
    stable_rank,
)
from phi3_lora_qa.models.threads import one_thread
from phi3_lora_qa.progress import Progress
from phi3_lora_qa.record import Spectrum
from phi3_lora_qa.strategies import LayerCase

SCALES = (2.0, 0.5, -1.0, 3.0)
LARGEST_SAMPLE = 1 << 21
"""The most entries of a weight that are compared; rows are drawn from a larger one."""
SCALED_MODULES = 25
BLOCK = 1 << 16
"""Entries that are compared at a time, so that their float64 arrays stay in the CPU cache."""
INPUT_SIZES = (1e-3, 1.0, 100.0)
CORNER = (8, 64)
"""Rows and columns of the corner of a module on which the layer properties are run."""


@dataclass(frozen=True, kw_only=True)
class MaxError:
    """The entry whose error is largest in relation to its bound.

    Attributes:
        ratio: error / bound.
        error: |found - expected|.
        bound: The largest error that rounding explains.
        is_bounded: Whether any entry's bound is finite. If values exceed the range of a dtype, none
            is, and the comparison proves nothing.
    """

    ratio: float
    error: float
    bound: float
    is_bounded: bool


@dataclass(frozen=True, kw_only=True)
class ModuleStats:
    """The measurements of one adapted module.

    Attributes:
        name: The module's path in the base.
        delta: PEFT's delta compared with scaling · B·A from the file.
        rank: The part of the delta outside the r-dimensional row space of A.
        scaled: The delta at other scalings; None for a module that was not drawn.
        forward: PEFT's output compared with W·x + scaling · B·(A·x).
        spectrum: The delta's singular values.
        base_norm: A lower bound on ‖W‖_2.
        corner: A corner of the module as a layer.
    """

    name: str
    delta: MaxError
    rank: MaxError
    scaled: MaxError | None
    forward: MaxError
    spectrum: Spectrum
    base_norm: float
    corner: LayerCase


def measure_modules(
    layers: Iterable[LoraLayer],
    names: Sequence[str],
    *,
    seed: int,
    on_progress: Progress,
) -> tuple[ModuleStats, ...]:
    """Return the measurements of every module.

    Args:
        layers: The adapted modules, sorted by name; each is used before the next is taken.
        names: Their names, sorted.
        seed: Draws rows, inputs and the modules that are measured at other scalings.
        on_progress: Called with the phase, the number of measured modules and of all modules.
    """
    generator = np.random.default_rng(seed)
    count = min(SCALED_MODULES, len(names))
    drawn = set(generator.choice(names, size=count, replace=False)) if names else set()
    measured = []
    with one_thread():
        for number, layer in enumerate(layers, 1):
            on_progress("measuring modules", number, len(names))
            measured.append(_measure(layer, generator, scaled=layer.name in drawn))
    return tuple(measured)


def rows_of(factors: Factors, rows: Rows) -> Factors:
    """Return the factors of some output rows."""
    return replace(
        factors,
        B=factors.B[rows],
        magnitude=None if factors.magnitude is None else factors.magnitude[rows],
        bias=None if factors.bias is None else factors.bias[rows],
    )


def _measure(layer: LoraLayer, generator: np.random.Generator, *, scaled: bool) -> ModuleStats:
    f = layer.factors
    out_features, in_features = len(f.B), f.A.shape[1]
    count = min(out_features, max(1, LARGEST_SAMPLE // in_features))
    rows: Rows = np.sort(generator.choice(out_features, size=count, replace=False))
    x = np.stack([layer.draw_input(int(generator.integers(2**31)), size) for size in INPUT_SIZES])
    y = np.stack([layer.forward(row) for row in x])
    shared = _Shared(layer=layer, x=x, y=y, basis=np.linalg.qr(f.A.T).Q)
    blocks = np.array_split(rows, -(-count * in_features // BLOCK))
    found = [_compare(shared, block, SCALES if scaled else ()) for block in blocks]
    return ModuleStats(
        name=layer.name,
        delta=largest_of([part.delta for part in found]),
        rank=largest_of([part.rank for part in found]),
        scaled=largest_of([case for part in found for case in part.scaled]) if scaled else None,
        forward=largest_of([part.forward for part in found]),
        spectrum=_spectrum(layer),
        base_norm=layer.base_norm(),
        corner=_corner(layer, rows[: CORNER[0]], generator),
    )


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What is computed once for all rows: outputs y of inputs x, and a basis of A's rows."""

    layer: LoraLayer
    x: Array
    y: Array
    basis: Array


@dataclass(frozen=True, kw_only=True)
class _RowErrors:
    """The errors in some rows of a module; ``scaled`` has one entry for each scaling."""

    delta: MaxError
    rank: MaxError
    scaled: Sequence[MaxError]
    forward: MaxError


def _compare(shared: _Shared, rows: Rows, scales: Sequence[float]) -> _RowErrors:
    layer = shared.layer
    part = rows_of(layer.factors, rows)
    found, allowed = layer.peft_delta(rows=rows), delta_bound(part, layer.dtype)
    return _RowErrors(
        delta=max_error(found - delta(part), allowed),
        rank=_outside(found, shared.basis, allowed),
        scaled=[_scaled(layer, rows, part, factor) for factor in scales],
        forward=_forward(shared, rows, part),
    )


def max_error(difference: Array, bound: Array) -> MaxError:
    """Return the entry where |difference| / bound is largest."""
    error = np.abs(difference)
    found = ratios(error, bound)
    at = int(np.argmax(found))
    return MaxError(
        ratio=float(found.flat[at]),
        error=float(error.flat[at]),
        bound=float(bound.flat[at]),
        is_bounded=bool(np.isfinite(bound).any()),
    )


def largest_of(cases: Sequence[MaxError]) -> MaxError:
    """Return the largest of several; it is bounded if any of them is."""
    largest = max(cases, key=lambda case: case.ratio)
    return replace(largest, is_bounded=any(case.is_bounded for case in cases))


def _outside(found: Array, basis: Array, delta_error: Array) -> MaxError:
    outside = np.linalg.norm(found - (found @ basis) @ basis.T)
    # Rounding of the projection itself: float64 on a matrix of this size.
    projection = gamma(sum(found.shape), "float64") * np.linalg.norm(found)
    allowed = np.linalg.norm(delta_error) + projection
    return max_error(np.array([outside]), np.array([allowed]))


def _scaled(layer: LoraLayer, rows: Rows, part: Factors, factor: float) -> MaxError:
    part = replace(part, scaling=factor * part.scaling)
    found = layer.peft_delta(factor, rows)
    return max_error(found - delta(part), delta_bound(part, layer.dtype))


def _forward(shared: _Shared, rows: Rows, part: Factors) -> MaxError:
    layer, x, weight = shared.layer, shared.x, shared.layer.base_weight(rows)
    if layer.is_embedding and part.magnitude is None:
        # One-hot inputs select columns; multiplying the others by zero is not needed. DoRA's norm
        # needs the whole row, though.
        columns = x.any(axis=0)
        x, weight, part = x[:, columns], weight[:, columns], replace(part, A=part.A[:, columns])
    found, allowed = shared.y[:, rows], forward_bound(weight, part, x, layer.dtype)
    return max_error(found - output(weight, part, x), allowed)


def _spectrum(layer: LoraLayer) -> Spectrum:
    values = singular_values(layer.factors)
    return Spectrum(
        module=layer.name,
        rank=layer.factors.rank,
        scaling=layer.factors.scaling,
        frobenius=float(np.linalg.norm(values)),
        stable_rank=stable_rank(values),
        singular_values=[float(value) for value in values],
    )


def _corner(layer: LoraLayer, rows: Rows, generator: np.random.Generator) -> LayerCase:
    """Return a corner of the compared rows as a layer: real values, and fast to run."""
    f = rows_of(layer.factors, rows)
    in_features = min(CORNER[1], f.A.shape[1])
    x = generator.standard_normal((2, in_features)).astype(np.float16).astype(np.float64)
    return LayerCase(
        dtype=layer.dtype,
        weight=layer.base_weight(rows)[
            :, :in_features
        ].copy(),  # a view would keep whole rows in memory
        # PEFT merges a bias of B into the base's bias, which Phi-3's linear layers lack.
        base_bias=None if f.bias is None else np.zeros(len(rows)),
        factors=replace(f, A=f.A[:, :in_features].copy()),
        alpha=f.scaling * f.rank,
        rslora=False,
        x=x if layer.dtype != "bfloat16" else np.round(x * 8) / 8,
    )
