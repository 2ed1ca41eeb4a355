"""What the math stage measures of each adapted module, in one pass over the base's weights."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from phi3_lora_qa.gate.layers import LoraLayer, Rows, lora_layers
from phi3_lora_qa.lora import (
    Arithmetic,
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
from phi3_lora_qa.record import Spectrum
from phi3_lora_qa.strategies import LayerCase

if TYPE_CHECKING:
    from phi3_lora_qa.gate.bench import Bench

SCALES = (2.0, 0.5, -1.0, 3.0)
LARGEST_SAMPLE = 1 << 21
"""Entries of a weight that are compared; the larger weights are compared in drawn rows."""
SCALED_MODULES = 25
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
    from phi3_lora_qa.gate.streaming import is_here, streamed_layers

    layers: Iterable[LoraLayer]
    layers = streamed_layers(bench) if is_here(bench.target.base) else lora_layers(bench)
    generator = np.random.default_rng(bench.run.settings.seed)
    names = sorted(bench.factors)
    count = min(SCALED_MODULES, len(names))
    drawn = set(generator.choice(names, size=count, replace=False)) if names else set()
    measured = []
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
    part = rows_of(f, rows)
    arithmetic = Arithmetic(dtype=layer.dtype)
    found = layer.peft_delta(rows=rows)
    allowed = delta_bound(part, arithmetic)
    weight = layer.base_weight(rows)
    return ModuleMeasure(
        name=layer.name,
        delta=worst(found - delta(part), allowed),
        rank=_outside(found, part, allowed),
        scaled=_scaled(layer, rows, arithmetic) if scaled else None,
        forward=_forward(layer, rows, weight, arithmetic, generator),
        spectrum=_spectrum(layer),
        base_norm=layer.base_norm(),
        piece=_piece(layer, weight, part, generator),
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


def _outside(found: Array, part: Factors, delta_error: Array) -> Worst:
    basis = np.linalg.qr(part.A.T).Q
    outside = np.linalg.norm(found - (found @ basis) @ basis.T)
    # Rounding of the projection itself: float64 on a matrix of this size.
    projection = gamma(sum(found.shape), "float64") * np.linalg.norm(found)
    allowed = np.linalg.norm(delta_error) + projection
    return worst(np.array([outside]), np.array([allowed]))


def _scaled(layer: LoraLayer, rows: Rows, arithmetic: Arithmetic) -> Worst:
    cases = []
    for k in SCALES:
        part = rows_of(layer.factors, rows)
        part = replace(part, scaling=k * part.scaling)
        found = layer.peft_delta(k, rows)
        cases.append(worst(found - delta(part), delta_bound(part, arithmetic)))
    return max(cases, key=lambda case: case.ratio)


def _forward(
    layer: LoraLayer,
    rows: Rows,
    weight: Array,
    arithmetic: Arithmetic,
    generator: np.random.Generator,
) -> Worst:
    f = rows_of(layer.factors, rows)
    sizes = (1e-3, 1.0, 100.0)
    x = np.stack([layer.draw_input(int(generator.integers(2**31)), size) for size in sizes])
    found = np.stack([layer.forward(row)[rows] for row in x])
    if layer.is_embedding and f.magnitude is None:
        # One-hot inputs pick columns: the others need not be multiplied by zero. DoRA's length is
        # that of the whole row, though.
        columns = x.any(axis=0)
        x, weight, f = x[:, columns], weight[:, columns], replace(f, A=f.A[:, columns])
    return worst(found - output(weight, f, x), forward_bound(weight, f, x, arithmetic))


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


def _piece(
    layer: LoraLayer, weight: Array, part: Factors, generator: np.random.Generator
) -> LayerCase:
    """Cut a corner out of the compared rows: real values, in a layer that costs nothing."""
    out, inside = min(PIECE[0], len(weight)), min(PIECE[1], weight.shape[1])
    f = rows_of(part, np.arange(out))
    x = generator.standard_normal((2, inside)).astype(np.float16).astype(np.float64)
    return LayerCase(
        dtype=layer.dtype,
        weight=weight[:out, :inside].copy(),  # a view would keep the whole weight
        # PEFT merges a bias of B into the base's, which Phi-3's linear layers have not.
        base_bias=None if f.bias is None else np.zeros(out),
        factors=replace(f, A=f.A[:, :inside].copy()),
        alpha=f.scaling * f.rank,
        rslora=False,
        x=x if layer.dtype != "bfloat16" else np.round(x * 8) / 8,
    )
