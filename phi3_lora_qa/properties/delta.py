"""Properties of the delta, which a layer adds to its weight."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from phi3_lora_qa.lora import Array, Factors, delta, gamma, round_to, weight_bounds
from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.layer_property import Comparison, Draw, compare, layer_property
from phi3_lora_qa.strategies import LayerCase

FACTORS = (2.0, 0.5, -1.0, 3.0, 0.0)


@layer_property("delta")
def delta_is_scaling_times_b_times_a(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The delta is scaling · B·A."""
    yield _delta(layer.build(case), case, case.factors)


@layer_property("delta")
def delta_has_at_most_rank_r(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The columns of the delta are in the column space of B, which has at most r dimensions."""
    found = layer.build(case).delta()
    if not np.isfinite(found).all():
        return  # beyond the dtype's range; delta_is_scaling_times_b_times_a covers it
    basis = np.linalg.qr(case.factors.B).Q
    outside = float(np.linalg.norm(found - basis @ (basis.T @ found)))
    # The projection itself rounds, in float64.
    projection = gamma(sum(found.shape), "float64") * np.linalg.norm(found)
    bound = weight_bounds.delta_bound(case.factors, layer.arithmetic(case))
    allowed = np.linalg.norm(bound) + projection
    yield Comparison(
        what="the part of the delta outside the column space of B",
        error=np.array(outside), bound=np.array(allowed),
    )  # fmt: skip


@layer_property("delta", "set_scale")
def delta_is_linear_in_scaling(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """With k times the scaling the delta is k times as large; reset to 1, it is unchanged."""
    built = layer.build(case)
    before = built.delta()
    for k in FACTORS:
        built.set_scale(k)
        yield _delta(built, case, scaled(case.factors, k), f" at {k:g} times the scaling")
    built.set_scale(1.0)
    yield compare("the delta after the scale was reset", built.delta(), before)


@layer_property("delta")
def delta_is_linear_in_each_factor(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Scaling A or B by 2, 1/2 or -1 scales the delta by the same number."""
    f = case.factors
    for k in (2.0, 0.5, -1.0):
        for factor, changed in ("B", replace(f, B=k * f.B)), ("A", replace(f, A=k * f.A)):
            if _representable(changed, case.dtype):
                built = layer.build(replace(case, factors=changed))
                yield _delta(built, case, scaled(f, k), f" with {factor} {k:g} times as large")


@layer_property("delta")
def delta_is_gauge_invariant(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """B·M and M⁻¹·A have the same delta as B and A: only the product is determined.

    M is a signed diagonal of powers of two, so that the new factors are exact.
    """
    f = case.factors
    exponents = draw(st.lists(st.integers(-3, 3), min_size=f.rank, max_size=f.rank))
    signs = draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=f.rank, max_size=f.rank))
    gauge = np.array(signs) * 2.0 ** np.array(exponents)
    transformed = replace(f, B=f.B * gauge, A=f.A / gauge[:, None])
    if _representable(transformed, case.dtype):
        built = layer.build(replace(case, factors=transformed))
        yield _delta(built, case, f, " with B·M and M⁻¹·A")


@layer_property("delta")
def delta_is_invariant_to_rank_permutation(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """Permuting the rows of A and the columns of B in the same way leaves the delta unchanged."""
    if type(case) is not LayerCase:
        return  # the ranks of fused blocks belong to their blocks and cannot be permuted
    f = case.factors
    order = draw(st.permutations(range(f.rank)))
    built = layer.build(replace(case, factors=replace(f, B=f.B[:, order], A=f.A[order])))
    yield _delta(built, case, f, " with permuted ranks")


def scaled(factors: Factors, k: float) -> Factors:
    """Return the factors with ``k`` times their scaling."""
    return replace(factors, scaling=k * factors.scaling)


def _delta(built: Layer, case: LayerCase, factors: Factors, what: str = "") -> Comparison:
    allowed = weight_bounds.delta_bound(factors, built.arithmetic(case))
    return compare(f"the delta{what}", built.delta(), delta(factors), allowed)


def _representable(factors: Factors, dtype: str) -> bool:
    """Return whether the factors are exact in the dtype, so that building rounds nothing."""
    return all(_exact(part, dtype) for part in (factors.A, factors.B))


def _exact(values: Array, dtype: str) -> bool:
    return bool(np.array_equal(round_to(values, dtype), values))
