"""Properties of training: how it starts, what moves, and that dropout ends with it."""

from collections.abc import Iterator

import numpy as np

from phi3_lora_qa.lora import Array, factor_gradients, gradient_bound, merged_forward_bound
from phi3_lora_qa.properties.forwards import agrees, expected_output
from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.property import Comparison, Draw, compared, holds, layer_property
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
    """At step 0 exactly the zero factor gets a gradient: the other's carries that zero."""
    built = layer.fresh(case)
    g = _pull(case, draw)
    found, got = built.factors(), built.gradients(case.x, g)
    if found.magnitude is not None:
        return  # DoRA's gradients have the length in them
    zero, other = (got.A, got.B) if not found.A.any() else (got.B, got.A)
    yield compared("the gradient of the factor that is not zero", _or_zero(other), np.array(0.0))
    expected = factor_gradients(found, case.x, g)
    allowed = gradient_bound(found, case.x, g, layer.arithmetic(case))
    if zero is got.A:
        yield compared("the gradient of the zero A", _or_zero(zero), expected.A, allowed.A)
    else:
        mask = layer.entries_of_b(case)
        yield compared("the gradient of the zero B", _or_zero(zero), expected.B * mask, allowed.B)


@layer_property("gradients")
def gradients_are_the_products(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The gradients are scaling · Bᵀ·g·xᵀ for A and scaling · g·(A·x)ᵀ for B, over the batch."""
    if case.factors.magnitude is not None:
        return  # DoRA's have the length in them
    g = _pull(case, draw)
    got = layer.build(case).gradients(case.x, g)
    expected = factor_gradients(case.factors, case.x, g)
    allowed = gradient_bound(case.factors, case.x, g, layer.arithmetic(case))
    yield compared("the gradient of A", _or_zero(got.A), expected.A, allowed.A)
    mask = layer.entries_of_b(case)
    yield compared("the gradient of B", _or_zero(got.B), expected.B * mask, allowed.B)


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


def _or_zero(gradient: Array | None) -> Array:
    return np.zeros(()) if gradient is None else gradient
