"""Properties of training on correct layers, and the names in their messages."""

import pytest

from phi3_lora_qa.properties import training_step
from phi3_lora_qa.properties.layer import Gradients
from phi3_lora_qa.properties.property_runner import PropertyFailed, run_property
from tests.properties.comparisons import PROPERTIES, check_comparisons, properties_of
from tests.properties.reference import ReferenceLayer

pytestmark = pytest.mark.slow

COMPARED: dict[str, list[str]] = {
    "initial_output_equals_the_base": [
        "one of the initial factors is zero",
        "one of the initial factors is not zero",
        "the output of an initialized layer",
    ],
    "initial_gradient_reaches_only_the_zero_factor": [
        "the gradient of the nonzero factor",
        *(f"the gradient of {part}" for part in ("A", "B", "the bias", "the magnitude")),
    ],
    "gradients_match_the_formulas": [
        f"the gradient of {part}" for part in ("A", "B", "the bias", "the magnitude")
    ],
    "base_receives_no_gradient": ["the base's parameters received no gradient"],
    "only_the_adapter_is_trainable": ["the base's parameters are frozen"],
    "dropout_is_inactive_in_eval_mode": ["the output in eval mode"],
    "dropout_is_active_in_training_mode": ["the output without its update"],
}
"""Everything that each property compares; otherwise a missing comparison would go unnoticed."""


@pytest.mark.parametrize("prop", COMPARED)
def test_a_property_passes_on_correct_layers_and_compares_everything(prop: str) -> None:
    check_comparisons(prop, COMPARED[prop])


def test_every_property_of_the_module_is_tested() -> None:
    assert properties_of(training_step) == set(COMPARED)


def test_a_base_parameter_with_a_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ReferenceLayer, "trainable_base_parameters", lambda self: ("weight", "bias")
    )
    with pytest.raises(PropertyFailed, match="not true: the base's weight, bias are frozen"):
        run_property(PROPERTIES["only_the_adapter_is_trainable"], ReferenceLayer)
    monkeypatch.setattr(
        ReferenceLayer,
        "gradients",
        lambda self, x, g: Gradients(A=None, B=None, frozen=("weight",)),
    )
    with pytest.raises(PropertyFailed, match="not true: the base's weight received no gradient"):
        run_property(PROPERTIES["base_receives_no_gradient"], ReferenceLayer)
