"""Each architecture of the table loads with its own class of transformers."""

import pytest

from phi3_lora_qa.adapter.architecture import ARCHITECTURES
from phi3_lora_qa.models.model_class import causal_lm_class


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_class_is_that_of_the_model_type(model_type: str) -> None:
    found = causal_lm_class(ARCHITECTURES[model_type])
    assert found.config_class.model_type == model_type
