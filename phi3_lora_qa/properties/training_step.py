"""Properties of training: initialization, gradients, trainable parameters, dropout."""

from collections.abc import Iterator

import numpy as np

from phi3_lora_qa.lora import (
    Array,
    Factors,
    factor_gradients,
    gradient_bound,
    merged_forward_bound,
)
from phi3_lora_qa.properties.forward import compare_output, expected_output
from phi3_lora_qa.properties.layer import Gradients, Layer
from phi3_lora_qa.properties.layer_property import (
    Comparison,
    Draw,
    check_statement,
    compare,
    layer_property,
)
from phi3_lora_qa.strategies import LayerCase, arrays


@layer_property("build_initialized")
def initial_output_equals_the_base(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """As initialized by the library, the layer outputs what the base does: one factor is zero."""
    built = layer.build_initialized(case)
    found = built.factors()
    yield check_statement(
        "one of the initial factors is zero", not found.A.any() or not found.B.any()
    )
    yield check_statement(
        "one of the initial factors is not zero", bool(found.A.any() or found.B.any())
    )
    factors = None if found.magnitude is None else found
    yield compare_output(
        layer, "the output of an initialized layer", built.forward(case.x), case, factors
    )


@layer_property("build_initialized", "gradients")
def initial_gradient_reaches_only_the_zero_factor(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """At step 0 only the zero factor gets a gradient; the gradient of the other factor is zero.

    DoRA's magnitude gets one from the start.
    """
    built = layer.build_initialized(case)
    g = _draw_output_gradient(case, draw)
    found, got = built.factors(), built.gradients(case.x, g)
    other = got.A if found.A.any() else got.B
    yield compare("the gradient of the nonzero factor", _or_zero(other), np.array(0.0))
    yield from _compare_gradients(layer, case, found, g, got)


@layer_property("gradients")
def gradients_match_the_formulas(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The gradients are scaling · Bᵀ·g·xᵀ for A and scaling · g·(A·x)ᵀ for B, over the batch.

    DoRA's are those with constant norms, times m / norm, and g·(W'·x) / m for m.
    """
    g = _draw_output_gradient(case, draw)
    yield from _compare_gradients(
        layer, case, case.factors, g, layer.build(case).gradients(case.x, g)
    )


@layer_property("gradients")
def base_receives_no_gradient(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """A backward pass leaves gradients only at the adapter's parameters."""
    frozen = layer.build(case).gradients(case.x, _draw_output_gradient(case, draw)).frozen
    what = f"the base's {', '.join(frozen) or 'parameters'} received no gradient"
    yield check_statement(what, not frozen)


@layer_property("trainable_base_parameters")
def only_the_adapter_is_trainable(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """The optimizer gets no parameter of the base."""
    names = layer.build(case).trainable_base_parameters()
    what = f"the base's {', '.join(names) or 'parameters'} are frozen"
    yield check_statement(what, not names)


@layer_property("build_with_dropout")
def dropout_is_inactive_in_eval_mode(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """In eval mode dropout does nothing."""
    built = layer.build_with_dropout(case, 0.5)
    built.eval()
    expected, allowed = expected_output(layer, case, case.factors)
    # Some libraries merge in eval mode.
    merged = merged_forward_bound(
        case.weight, case.factors, case.x, layer.arithmetic(case), case.base_bias
    )
    found = built.forward(case.x)
    yield compare("the output in eval mode", found, expected, np.maximum(allowed, merged))


@layer_property("build_with_dropout", "train")
def dropout_is_active_in_training_mode(
    layer: type[Layer], case: LayerCase, draw: Draw
) -> Iterator[Comparison]:
    """In training dropout applies to the update alone: at rate 1 the base's output remains."""
    if case.factors.magnitude is not None or case.factors.bias is not None:
        return  # DoRA's magnitude remains, and a bias after B is not dropped
    built = layer.build_with_dropout(case, 1.0)
    built.train()
    yield compare_output(layer, "the output without its update", built.forward(case.x), case, None)


def _draw_output_gradient(case: LayerCase, draw: Draw) -> Array:
    """Draw g, the gradient of the loss with respect to the outputs (batch, out)."""
    shape = (len(case.x), len(case.weight))
    found: Array = draw(arrays(shape, dtype=case.dtype))
    return found


def _compare_gradients(
    layer: type[Layer], case: LayerCase, factors: Factors, g: Array, got: Gradients
) -> Iterator[Comparison]:
    """Compare every gradient with the reference."""
    expected = factor_gradients(case.weight, factors, case.x, g)
    allowed = gradient_bound(
        case.weight, factors, case.x, g, layer.arithmetic(case),
        base_bias=case.base_bias, batch=layer.batch_arithmetic(case),
        forms_delta=layer.forward_form == "delta",
    )  # fmt: skip
    of_b = expected.B * layer.b_parameter_mask(case)
    yield compare("the gradient of A", _or_zero(got.A), expected.A, allowed.A)
    yield compare("the gradient of B", _or_zero(got.B), of_b, allowed.B)
    for part in ("magnitude", "bias"):
        target = getattr(expected, part)
        if target is not None:
            found, bound = _or_zero(getattr(got, part)), getattr(allowed, part)
            yield compare(f"the gradient of the {part}", found, target, bound)


def _or_zero(gradient: Array | None) -> Array:
    return np.zeros(()) if gradient is None else gradient
