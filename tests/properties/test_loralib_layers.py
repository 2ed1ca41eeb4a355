"""What the layers of loralib are drawn from."""

from typing import Any

import loralib
import pytest

from tests.properties.drawing import KINDS, SIDES, draw_cases

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_has_the_kernels_that_loralib_supports(dims: int) -> None:
    built: Any = KINDS[f"loralib.conv{dims}d"].under_test
    layers = [built.build(case).module for case in draw_cases(f"loralib.conv{dims}d", 99)]
    assert {type(layer) for layer in layers} == {getattr(loralib, f"Conv{dims}d")}
    sides = {side for layer in layers for side in layer.conv.kernel_size}
    assert sides == (SIDES if dims == 2 else {1})


def test_a_merged_linear_may_have_blocks_without_factors() -> None:
    masks = {case.enable_lora for case in draw_cases("loralib.merged_linear", 99)}
    assert any(all(mask) for mask in masks)
    assert any(not all(mask) for mask in masks)
    assert len({len(mask) for mask in masks}) > 1
