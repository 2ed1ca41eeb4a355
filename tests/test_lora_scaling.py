import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora_scaling import scaling_of


def test_the_scaling_is_alpha_over_rank() -> None:
    assert scaling_of(32, 8) == 4.0
    assert scaling_of(-1, 4) == -0.25


def test_the_rank_stabilized_scaling_is_alpha_over_the_root_of_the_rank() -> None:
    assert scaling_of(32, 16, rslora=True) == 8.0


def test_a_rank_below_one_has_no_scaling() -> None:
    assert scaling_of(3, 1) == 3.0
    with pytest.raises(InputError, match="rank must be at least 1: got 0"):
        scaling_of(3, 0)


def test_the_public_function_is_the_one_that_the_linter_uses() -> None:
    assert lora.scaling_of is scaling_of
