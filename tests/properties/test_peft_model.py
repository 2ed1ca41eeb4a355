"""What whole models are drawn from."""

import pytest

from tests.properties.drawing import draw_cases

pytestmark = pytest.mark.slow


def test_a_model_is_drawn_with_padded_batches() -> None:
    shapes = [case.batch.input_ids.shape for case in draw_cases("peft.model", 99)]
    assert {rows for rows, _ in shapes} == {1, 2, 3}
    assert max(tokens for _, tokens in shapes) > 6
