"""Each architecture of the table loads with its own class of transformers."""

import pytest

from phi3_lora_qa.adapter.architecture import ARCHITECTURES, PHI3
from phi3_lora_qa.models.model_class import base_architecture, causal_lm_class


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_class_is_that_of_the_model_type(model_type: str) -> None:
    assert base_architecture({"model_type": model_type}) is ARCHITECTURES[model_type]
    assert causal_lm_class({"model_type": model_type}).config_class.model_type == model_type


def test_a_known_base_that_is_not_on_this_machine_is_a_phi3() -> None:
    assert base_architecture({}) is PHI3
