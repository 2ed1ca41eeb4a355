"""Properties as tests in a user's own test file."""

import os
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.properties.layer import Layer
from phi3_lora_qa.properties.layer_property import Property, all_properties
from phi3_lora_qa.properties.property_runner import PROFILES, PropertyResult, run_property


def lora_properties(
    layer: type[Layer], *, examples: int = PROFILES["default"].examples, seed: int = 0
) -> pytest.MarkDecorator:
    """Parametrise a test over every property that applies to a kind of layer.

    The test takes an argument ``check`` and calls it. A property that the layer names among its
    known faults is expected to fail.

    Args:
        layer: How to build and use the layer.
        examples: Cases that are drawn for each property.
        seed: The same seed draws the same cases.

    Raises:
        InputError: No property applies, so that the test would prove nothing.
    """
    applying = [tested for tested in all_properties() if tested.applies(layer)]
    if not applying:
        raise InputError(
            f"no property applies to {layer.__name__}; derive it from phi3_lora_qa.properties.Layer"
        )
    return pytest.mark.parametrize("check", [_test(p, layer, examples, seed) for p in applying])


def _test(tested: Property, layer: type[Layer], examples: int, seed: int) -> Any:
    def check() -> PropertyResult:
        __tracebackhide__ = True
        node, _, _ = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")
        rerun_command = shlex.join(["pytest", node]) if node else ""
        held = run_property(
            tested, layer, examples=examples, seed=seed, rerun_command=rerun_command
        )
        if not held.cases:
            pytest.skip("no case was drawn to which the property applies")
        return held

    called: Callable[[], PropertyResult] = check
    known = layer.known_failures.get(tested.id)
    marks = () if known is None else (pytest.mark.xfail(reason=known, strict=False),)
    return pytest.param(called, id=tested.id, marks=marks)
