"""Properties as tests in your own test file."""

import os
import shlex
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.layer_property import Property
from phi3_lora_qa.properties.property_catalogue import all_properties
from phi3_lora_qa.properties.property_runner import PROFILES, PropertyResult, run_property


def lora_properties(
    layer: type[Layer], *, examples: int = PROFILES["default"].examples, seed: int = 0
) -> pytest.MarkDecorator:
    """Parametrize a test over every property that applies to a kind of layer.

    The test takes an argument ``check`` and calls it. A property in the layer's `known_failures` is
    expected to fail.

    Args:
        layer: The class that builds and uses the layer.
        examples: The number of cases to draw for each property.
        seed: The same seed draws the same cases.

    Returns:
        A mark for the test function.

    Raises:
        InputError: No property applies, so the test would prove nothing.

    Example:
        >>> class MyLayer(Layer):
        ...     @classmethod
        ...     def build(cls, case):
        ...         raise NotImplementedError("build your layer from case.weight and case.factors")
        ...     def forward(self, x):
        ...         raise NotImplementedError("return the outputs for the rows of x")
        >>> @lora_properties(MyLayer)
        ... def test_my_layer(check):
        ...     check()
        >>> [parameter.id for parameter in test_my_layer.pytestmark[0].args[1]][0]
        'forward_adds_the_delta'
    """
    applying = [prop for prop in all_properties() if prop.applies(layer)]
    if not applying:
        raise InputError(
            f"no property applies to {layer.__name__}; derive it from phi3_lora_qa.properties.Layer"
        )
    checks = [_parameter(prop, layer, examples, seed) for prop in applying]
    return pytest.mark.parametrize("check", checks)


def _parameter(prop: Property, layer: type[Layer], examples: int, seed: int) -> Any:
    def check() -> PropertyResult:
        __tracebackhide__ = True
        node, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")
        command = shlex.join(["pytest", node]) if node else ""
        result = run_property(prop, layer, examples=examples, seed=seed, rerun_command=command)
        if not result.cases:
            pytest.skip("the property applies to none of the drawn cases")
        return result

    known = layer.known_failures.get(prop.id)
    marks = () if known is None else (pytest.mark.xfail(reason=known, strict=False),)
    return pytest.param(check, id=prop.id, marks=marks)
