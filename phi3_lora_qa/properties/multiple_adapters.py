"""Properties of several adapters in one layer: activation, sums and combinations."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from hypothesis import strategies as st

from phi3_lora_qa.lora import (
    Approximation,
    Array,
    Factors,
    Mixture,
    concatenate,
    delta,
    exact,
    mix_factors,
    output,
    scaling_of,
    sum_forward_bound,
    truncate,
    weight_bounds,
    weighted_delta,
)
from phi3_lora_qa.lora.combination_bounds import concatenate_bound, mix_bound
from phi3_lora_qa.lora.float_formats import format_of
from phi3_lora_qa.properties.forward import compare_output, expected_output
from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.layer_property import Comparison, Draw, compare, layer_property
from phi3_lora_qa.strategies import LayerCase

FIRST, SECOND, BASE = "default", "second", "__base__"
WEIGHTS = (1.0, 0.5, -1.0, 2.0, 0.3, -0.7)


@layer_property("add_adapter", "set_active_adapters")
def only_the_active_adapter_applies(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """With two adapters the layer's output is that of the active one alone."""
    built, second = _pair(layer, case, draw)
    yield compare_output(
        layer,
        "the output with a second, inactive adapter",
        built.forward(case.x),
        case,
        case.factors,
    )
    built.set_active_adapters(SECOND)
    yield compare_output(
        layer, "the output of the second adapter", built.forward(case.x), case, second
    )
    built.set_active_adapters(FIRST)
    yield compare_output(
        layer, "the output of the first adapter again", built.forward(case.x), case, case.factors
    )


@layer_property("add_adapter", "set_active_adapters")
def active_adapters_are_summed(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Two active adapters give the base's output plus both updates."""
    if case.factors.magnitude is not None or case.base_bias is not None:
        return  # DoRA's magnitudes cannot be summed
    built, second = _pair(layer, case, draw)
    built.set_active_adapters(FIRST, SECOND)
    both = (case.factors, second)
    expected = case.x @ case.weight.T + sum(_update(f, case.x) for f in both)
    allowed = sum_forward_bound(case.weight, both, case.x, layer.arithmetic(case))
    yield compare("the output of both adapters", built.forward(case.x), expected, allowed)


@layer_property("add_adapter", "set_active_adapters", "merge", "unmerge", "weight")
def merging_two_adapters_adds_both_deltas(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Two active adapters merge to the weight plus both deltas; unmerging subtracts both."""
    if case.factors.magnitude is not None:
        return
    built, second = _pair(layer, case, draw)
    built.set_active_adapters(FIRST, SECOND)
    built.merge()
    arithmetic = layer.arithmetic(case)
    deltas = [
        Approximation(value=delta(f), error=weight_bounds.delta_bound(f, arithmetic))
        for f in (case.factors, second)
    ]
    merged = reduce(arithmetic.add, deltas, exact(case.weight))
    yield compare("the weight with both merged", built.weight(), merged.value, merged.error)
    built.unmerge()
    restored = reduce(arithmetic.subtract, reversed(deltas), merged)
    yield compare("the weight with both unmerged", built.weight(), case.weight, restored.error)


@layer_property("add_adapter", "forward_mixed")
def mixed_batch_rows_match_separate_runs(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """In a batch of mixed adapters each row equals a run with its own adapter, or the base."""
    if case.factors.magnitude is not None:
        return  # PEFT does not support it
    built, second = _pair(layer, case, draw)
    known = {FIRST: case.factors, SECOND: second, BASE: None}
    names = tuple(draw(st.sampled_from(sorted(known))) for _ in case.x)
    found = built.forward_mixed(case.x, names)
    for row, name in enumerate(names):
        expected, bound = expected_output(layer, case, known[name])
        yield compare(f"a row of {name} in a mixed batch", found[row], expected[row], bound[row])
    yield compare_output(
        layer, "the output after a mixed batch", built.forward(case.x), case, case.factors
    )


@layer_property("add_adapter", "combine_adapters")
def cat_combination_equals_the_weighted_sum(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The combination "cat" gives the sum of the weighted deltas, with the sum of the ranks."""
    parts, weights, found = _combined(layer, case, draw, "cat")
    expected, at = concatenate(parts, weights), _weights_text(weights)
    arithmetic = layer.arithmetic(case)
    yield compare("the rank of the concatenation", np.array(found.rank), np.array(expected.rank))
    yield compare(
        f"the delta of the concatenation{at}",
        delta(found),
        weighted_delta(parts, weights),
        concatenate_bound(parts, weights, arithmetic),
    )


@layer_property("add_adapter", "combine_adapters")
def rslora_combination_has_scaling_one(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Combined factors include the weights, so the combination's scaling is 1, also with rsLoRA."""
    rslora = replace(case, rslora=True)
    _, _, found = _combined(layer, rslora, draw, "cat", plain_scaling=False)
    yield compare("the scaling of the combination", np.array(found.scaling), np.array(1.0))


@layer_property("add_adapter", "combine_adapters")
def svd_combination_is_optimal_for_its_rank(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """An "svd" gives the weighted sum apart from the singular values that it truncates."""
    parts, weights, found = _combined(layer, case, draw, "svd")
    total, whole = weighted_delta(parts, weights), concatenate(parts, weights)
    tail = np.linalg.norm(truncate(whole, found.rank).tail)
    size = sum(
        abs(w * f.scaling) * np.linalg.norm(f.B) * np.linalg.norm(f.A)
        for w, f in zip(weights, parts, strict=True)
    )
    # An SVD in float32 is backward stable: its error is relative to the size of its input, times a
    # modest polynomial of the sides (Anderson et al., LAPACK Users' Guide, section 4.9).
    single, unit = (
        format_of("float32").unit_roundoff,
        format_of(layer.arithmetic(case).dtype).unit_roundoff,
    )
    lost = sum(total.shape) * (4 * single * size + unit * (size + np.linalg.norm(total)))
    yield Comparison(
        what=f"the distance of the svd from the weighted sum{_weights_text(weights)}",
        error=np.array(np.linalg.norm(delta(found) - total)),
        bound=np.array(tail + lost),
    )


@layer_property("add_adapter", "combine_adapters")
def linear_combination_mixes_the_factors(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Mixtures such as "linear" add factors, with the square roots of the weights.

    This is not the sum of the deltas, because of cross terms. PEFT defines "linear" this way.
    """
    how, kind = draw(st.sampled_from([("linear", "linear"), ("ties", "ties"),
                                      ("magnitude_prune", "magnitude_prune"),
                                      ("dare_linear", "linear")]))  # fmt: skip
    parts, weights, found = _combined(layer, case, draw, how)
    mixture = Mixture(kind=kind, density=1.0)
    expected = mix_factors(parts, weights, mixture)
    allowed = mix_bound(parts, weights, mixture, layer.arithmetic(case))
    which, scaling = f"the {how} combination{_weights_text(weights)}", np.array(found.scaling)
    yield compare(f"A of {which}", found.A, expected.A, allowed.A)
    yield compare(f"B of {which}", found.B, expected.B, allowed.B)
    yield compare(f"the scaling of {which}", scaling, np.array(1.0))


def _pair(layer: type[Layer], case: LayerCase, draw: Draw) -> tuple[Layer, Factors]:
    """Build a layer with a second adapter of a different rank and scaling."""
    f = case.factors
    second = draw(
        layer.additional_factors(
            case, magnitude=f.magnitude is not None, bias=f.bias is not None
        ).filter(_has_alpha)
    )
    built = layer.build(case)
    built.add_adapter(SECOND, second)
    return built, second


def _combined(
    layer: type[Layer], case: LayerCase, draw: Draw, how: str, *, plain_scaling: bool = True
) -> tuple[Sequence[Factors], tuple[float, ...], Factors]:
    """Combine an adapter with a second one; mixtures of factors need equal ranks."""
    f = case.factors
    if plain_scaling:  # rslora_combination_has_scaling_one covers rsLoRA
        case = replace(case, rslora=False)
        f = replace(f, scaling=scaling_of(case.alpha, f.rank))
    plain = replace(f, magnitude=None, bias=None)
    second = draw(
        layer.additional_factors(
            case,
            rank=None if how in ("cat", "svd") else f.rank,
            kinds=("ordinary",),
        ).filter(_has_alpha)
    )
    built = layer.build(replace(case, factors=plain))
    built.add_adapter(SECOND, second)
    weights = draw(st.tuples(*[st.sampled_from(WEIGHTS)] * 2))
    return [plain, second], weights, built.combine_adapters((FIRST, SECOND), weights, how)


def _weights_text(weights: Sequence[float]) -> str:
    """Return the weights as a suffix for the compared quantity."""
    return " with weights " + " and ".join(f"{weight:g}" for weight in weights)


def _has_alpha(factors: Factors) -> bool:
    """Return whether alpha = s · r gives s exactly, so that a config can represent it."""
    return scaling_of(factors.scaling * factors.rank, factors.rank) == factors.scaling


def _update(factors: Factors, x: Array) -> Array:
    return output(np.zeros((len(factors.B), x.shape[1])), factors, x)
