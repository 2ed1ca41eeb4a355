"""Properties of training: how it starts, what moves, and that dropout ends with it."""

from collections.abc import Iterator

import numpy as np

from phi3_lora_qa.lora import (
    Array,
    Factors,
    factor_gradients,
    gradient_bound,
    merged_forward_bound,
)
from phi3_lora_qa.properties.forward import agrees, expected_output
from phi3_lora_qa.properties.layer import Gradients, Layer
from phi3_lora_qa.properties.layer_property import Comparison, Draw, compared, holds, layer_property
from phi3_lora_qa.strategies import LayerCase, arrays


@layer_property("fresh")
def fresh_it_is_the_base(layer: type[Layer], case: LayerCase, draw: Draw) -> Iterator[Comparison]:
    """As the library initialises it, the layer puts out what the base does: one factor is zero."""
    built = layer.fresh(case)
    found = built.factors()
    yield holds("one of the fresh factors is zero:", not found.A.any() or not found.B.any())
    yield holds("one of the fresh factors is not zero:", bool(found.A.any() or found.B.any()))
    factors = None if found.magnitude is None else found
    yield agrees(layer, "the output of a fresh layer", built.forward(case.x), case, factors)


@layer_property("fresh", "gradients")
def fresh_the_other_factor_does_not_move(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """At step 0 the zero factor gets a gradient and the other none: that one carries the zero.

    DoRA's magnitude gets one from the start.
    """
    built = layer.fresh(case)
    g = _pull(case, draw)
    found, got = built.factors(), built.gradients(case.x, g)
    other = got.A if found.A.any() else got.B
    yield compared("the gradient of the factor that is not zero", _or_zero(other), np.array(0.0))
    yield from _agree(layer, case, found, g, got)


@layer_property("gradients")
def gradients_are_the_products(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The gradients are scaling · Bᵀ·g·xᵀ for A and scaling · g·(A·x)ᵀ for B, over the batch.

    DoRA's are those with its norms held constant, with m / norm more, and g·(W'·x) / m for m.
    """
    g = _pull(case, draw)
    yield from _agree(layer, case, case.factors, g, layer.build(case).gradients(case.x, g))


@layer_property("gradients")
def the_base_gets_no_gradient(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """A backward pass leaves gradients at the adapter's parameters only."""
    frozen = layer.build(case).gradients(case.x, _pull(case, draw)).frozen
    yield holds(f"no gradient at the base's {', '.join(frozen) or 'parameters'}:", not frozen)


@layer_property("trainable")
def only_the_adapter_is_trained(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """No parameter of the base is given to the optimizer."""
    names = layer.build(case).trainable()
    yield holds(f"the base's {', '.join(names) or 'parameters'} are frozen:", not names)


@layer_property("with_dropout")
def dropout_ends_with_training(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """In eval mode dropout does nothing."""
    built = layer.with_dropout(case, 0.5)
    built.eval()
    expected, allowed = expected_output(layer, case, case.factors)
    # Some libraries merge in eval mode.
    merged = merged_forward_bound(
        case.weight, case.factors, case.x, layer.arithmetic(case), case.base_bias
    )
    found = built.forward(case.x)
    yield compared("the output in eval mode", found, expected, np.maximum(allowed, merged))


@layer_property("with_dropout", "train")
def dropout_acts_in_training(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """In training dropout acts on the update alone: at a rate of 1 the base is left."""
    if case.factors.magnitude is not None or case.factors.bias is not None:
        return  # DoRA's length is left, and a bias behind B is not dropped
    built = layer.with_dropout(case, 1.0)
    built.train()
    yield agrees(layer, "the output without its update", built.forward(case.x), case, None)


def _pull(case: LayerCase, draw: Draw) -> Array:
    """Draw g, the gradient of the loss with respect to the outputs (batch, out)."""
    shape = (len(case.x), len(case.weight))
    found: Array = draw(arrays(shape, dtype=case.dtype))
    return found


def _agree(
    layer: type[Layer], case: LayerCase, factors: Factors, g: Array, got: Gradients
) -> Iterator[Comparison]:
    """Compare every gradient with the reference's."""
    expected = factor_gradients(case.weight, factors, case.x, g)
    allowed = gradient_bound(
        case.weight, factors, case.x, g, layer.arithmetic(case),
        base_bias=case.base_bias, batch=layer.batch_arithmetic(case),
        forms_delta=layer.forms == "delta",
    )  # fmt: skip
    of_b = expected.B * layer.entries_of_b(case)
    yield compared("the gradient of A", _or_zero(got.A), expected.A, allowed.A)
    yield compared("the gradient of B", _or_zero(got.B), of_b, allowed.B)
    for part in ("magnitude", "bias"):
        wanted = getattr(expected, part)
        if wanted is not None:
            found, bound = _or_zero(getattr(got, part)), getattr(allowed, part)
            yield compared(f"the gradient of the {part}", found, wanted, bound)


def _or_zero(gradient: Array | None) -> Array:
    return np.zeros(()) if gradient is None else gradient
