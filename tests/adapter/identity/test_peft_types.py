"""The table of types is peft's, and so is what peft can approximate as LoRA."""

import pytest

from phi3_lora_qa.adapter.identity.peft_types import APPROXIMATED, LORA, OTHER_TYPES


def test_the_types_are_those_of_the_installed_peft() -> None:
    from peft import PeftType

    assert {LORA, *OTHER_TYPES} == {kind.value for kind in PeftType}


def test_the_types_that_are_approximated_are_other_types() -> None:
    assert set(OTHER_TYPES) > APPROXIMATED


@pytest.mark.parametrize("kind", ["LOHA", "VERA", "IA3", "ADALORA"])
def test_peft_approximates_as_lora_what_the_table_says(kind: str) -> None:
    import peft
    import torch

    layer = torch.nn.Sequential(torch.nn.Linear(16, 16))
    settings: dict[str, object] = {"target_modules": ["0"]}
    settings |= {"feedforward_modules": []} if kind == "IA3" else {}
    settings |= {"total_step": 9} if kind == "ADALORA" else {}
    made = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](**settings)  # type: ignore[arg-type]
    model = peft.get_peft_model(layer, made)
    try:
        _, tensors = peft.convert_to_lora(model, rank=2)
    except TypeError:
        assert kind not in APPROXIMATED
    else:
        assert kind in APPROXIMATED
        assert tensors
