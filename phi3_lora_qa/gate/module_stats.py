"""What the math stage measures of each adapted module, in one pass over the base's weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa.gate.adapted_layers import LoraLayer, Rows, lora_layers
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
from phi3_lora_qa.record import Spectrum
from phi3_lora_qa.strategies import LayerCase

if TYPE_CHECKING:
    from phi3_lora_qa.gate.bench import Bench

SCALES = (2.0, 0.5, -1.0, 3.0)
LARGEST_SAMPLE = 1 << 21
"""Entries of a weight that are compared; the larger weights are compared in drawn rows."""
SCALED_MODULES = 25
BLOCK = 1 << 16
"""Entries that are compared at a time, so that float64 arrays of them stay in the cache."""
INPUT_SIZES = (1e-3, 1.0, 100.0)
PIECE = (8, 64)
"""Rows and columns of the piece on which the layer properties are run."""


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The entry where an error comes nearest to its bound, or passes it.

    Attributes:
        ratio: error / bound.
        error: |found - expected|.
        bound: What rounding allows.
        promised: Whether any bound is finite. Where the range of a dtype is left, none is, and the
            comparison proves nothing.
    """

    ratio: float
    error: float
    bound: float
    promised: bool


@dataclass(frozen=True, kw_only=True)
class ModuleMeasure:
    """One adapted module, measured.

    Attributes:
        name: The module's path in the base.
        delta: PEFT's delta against scaling · B·A from the file.
        rank: What of the delta lies outside of the r-dimensional row space of A.
        scaled: The delta at other scalings; None for a module that was not drawn for it.
        forward: PEFT's output against W·x + scaling · B·(A·x).
        spectrum: The delta's singular values.
        base_norm: ‖W‖_2, from below.
        piece: A corner of the module as a layer of its own.
    """

    name: str
    delta: Worst
    rank: Worst
    scaled: Worst | None
    forward: Worst
    spectrum: Spectrum
    base_norm: float
    piece: LayerCase


def measure_modules(bench: "Bench") -> tuple[ModuleMeasure, ...]:
    """Measure every module, each with its weight from the base's files and then let go.

    A base whose files are not here (a hub id) is loaded as a model first.
    """
    from phi3_lora_qa.gate.weight_streaming import is_here, streamed_layers

    layers: Iterable[LoraLayer]
    layers = streamed_layers(bench) if is_here(bench.target.base) else lora_layers(bench)
    generator = np.random.default_rng(bench.run.settings.seed)
    names = sorted(bench.factors)
    count = min(SCALED_MODULES, len(names))
    drawn = set(generator.choice(names, size=count, replace=False)) if names else set()
    measured = []
    with one_thread():
        for number, layer in enumerate(layers, 1):
            bench.run.progress("measuring modules", number, len(names))
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


def _measure(layer: LoraLayer, generator: np.random.Generator, *, scaled: bool) -> ModuleMeasure:
    f = layer.factors
    out, inside = len(f.B), f.A.shape[1]
    few = min(out, max(1, LARGEST_SAMPLE // inside))
    rows: Rows = np.sort(generator.choice(out, size=few, replace=False))
    x = np.stack([layer.draw_input(int(generator.integers(2**31)), size) for size in INPUT_SIZES])
    y = np.stack([layer.forward(row) for row in x])
    whole = _Whole(layer=layer, x=x, y=y, basis=np.linalg.qr(f.A.T).Q)
    blocks = np.array_split(rows, -(-few * inside // BLOCK))
    found = [_compare(whole, block, SCALES if scaled else ()) for block in blocks]
    return ModuleMeasure(
        name=layer.name,
        delta=worst_of([part.delta for part in found]),
        rank=worst_of([part.rank for part in found]),
        scaled=worst_of([case for part in found for case in part.scaled]) if scaled else None,
        forward=worst_of([part.forward for part in found]),
        spectrum=_spectrum(layer),
        base_norm=layer.base_norm(),
        piece=_piece(layer, rows[: PIECE[0]], generator),
    )


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """What is computed once for all rows: outputs y of inputs x, and a basis of A's rows."""

    layer: LoraLayer
    x: Array
    y: Array
    basis: Array


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Some rows of a module, compared; ``scaled`` has one entry for each scaling."""

    delta: Worst
    rank: Worst
    scaled: Sequence[Worst]
    forward: Worst


def _compare(whole: _Whole, rows: Rows, scales: Sequence[float]) -> _Compared:
    layer = whole.layer
    part = rows_of(layer.factors, rows)
    found, allowed = layer.peft_delta(rows=rows), delta_bound(part, layer.dtype)
    return _Compared(
        delta=worst(found - delta(part), allowed),
        rank=_outside(found, whole.basis, allowed),
        scaled=[_scaled(layer, rows, part, factor) for factor in scales],
        forward=_forward(whole, rows, part),
    )


def worst(difference: Array, bound: Array) -> Worst:
    """Return where |difference| / bound is largest."""
    error = np.abs(difference)
    found = ratios(error, bound)
    at = int(np.argmax(found))
    return Worst(
        ratio=float(found.flat[at]),
        error=float(error.flat[at]),
        bound=float(bound.flat[at]),
        promised=bool(np.isfinite(bound).any()),
    )


def worst_of(cases: Sequence[Worst]) -> Worst:
    """Return the worst of several; it is promised where any of them is."""
    largest = max(cases, key=lambda case: case.ratio)
    return replace(largest, promised=any(case.promised for case in cases))


def _outside(found: Array, basis: Array, delta_error: Array) -> Worst:
    outside = np.linalg.norm(found - (found @ basis) @ basis.T)
    # Rounding of the projection itself: float64 on a matrix of this size.
    projection = gamma(sum(found.shape), "float64") * np.linalg.norm(found)
    allowed = np.linalg.norm(delta_error) + projection
    return worst(np.array([outside]), np.array([allowed]))


def _scaled(layer: LoraLayer, rows: Rows, part: Factors, factor: float) -> Worst:
    part = replace(part, scaling=factor * part.scaling)
    found = layer.peft_delta(factor, rows)
    return worst(found - delta(part), delta_bound(part, layer.dtype))


def _forward(whole: _Whole, rows: Rows, part: Factors) -> Worst:
    layer, x, weight = whole.layer, whole.x, whole.layer.base_weight(rows)
    if layer.is_embedding and part.magnitude is None:
        # One-hot inputs pick columns: the others need not be multiplied by zero. DoRA's length is
        # that of the whole row, though.
        columns = x.any(axis=0)
        x, weight, part = x[:, columns], weight[:, columns], replace(part, A=part.A[:, columns])
    found, allowed = whole.y[:, rows], forward_bound(weight, part, x, layer.dtype)
    return worst(found - output(weight, part, x), allowed)


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


def _piece(layer: LoraLayer, rows: Rows, generator: np.random.Generator) -> LayerCase:
    """Cut a corner out of the compared rows: real values, in a layer that costs nothing."""
    f = rows_of(layer.factors, rows)
    inside = min(PIECE[1], f.A.shape[1])
    x = generator.standard_normal((2, inside)).astype(np.float16).astype(np.float64)
    return LayerCase(
        dtype=layer.dtype,
        weight=layer.base_weight(rows)[:, :inside].copy(),  # a view would keep whole rows
        # PEFT merges a bias of B into the base's, which Phi-3's linear layers have not.
        base_bias=None if f.bias is None else np.zeros(len(rows)),
        factors=replace(f, A=f.A[:, :inside].copy()),
        alpha=f.scaling * f.rank,
        rslora=False,
        x=x if layer.dtype != "bfloat16" else np.round(x * 8) / 8,
    )
