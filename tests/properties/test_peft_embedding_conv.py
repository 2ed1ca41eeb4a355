"""What the convolutions of PEFT are drawn from."""

from typing import Any

import pytest
import torch

from tests.properties.drawing import KINDS, SIDES, draw_cases

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_has_kernels_of_every_side(dims: int) -> None:
    built: Any = KINDS[f"peft.conv{dims}d"].under_test
    bases = [
        built.build(case).layer.get_base_layer() for case in draw_cases(f"peft.conv{dims}d", 99)
    ]
    assert {side for base in bases for side in base.kernel_size} == SIDES
    # PEFT treats a three-dimensional kernel like this as the 1 x 1 kernel of a Conv2d.
    assert any(base.kernel_size[:2] == (1, 1) for base in bases) == (dims == 2)
    assert any(base.in_channels > 1 for base in bases)


def test_grouped_convolutions_have_all_numbers_of_dimensions_and_groups() -> None:
    built: Any = KINDS["peft.grouped_conv"].under_test
    bases = [
        built.build(case).layer.get_base_layer() for case in draw_cases("peft.grouped_conv", 99)
    ]
    assert {type(base) for base in bases} == {torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d}
    assert {base.groups for base in bases} == {1, 2, 3}
