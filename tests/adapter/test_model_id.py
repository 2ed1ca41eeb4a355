"""Uploads of one model have one name, and different models do not."""

import pytest

from phi3_lora_qa.adapter.model_id import model_of


@pytest.mark.parametrize(
    "name",
    [
        "microsoft/Phi-3-mini-4k-instruct",
        "unsloth/phi-3-mini-4k-instruct-unsloth-bnb-4bit",
        "mlx-community/Phi-3-mini-4k-instruct-8bit",
        "owner/Phi-3-mini-4k-instruct-GPTQ-Int4",
        "owner/Phi-3-mini-4k-instruct-quantized.w8a16",
        "Phi-3-mini-4k-instruct-hf",
    ],
)
def test_uploads_in_other_precisions_are_the_same_model(name: str) -> None:
    assert model_of(name) == "phi-3-mini-4k-instruct"


def test_what_is_a_part_of_a_name_is_kept() -> None:
    names = ["Phi-3-mini-128k-instruct", "Phi-3.5-mini-instruct", "Phi-3-mini-4k-hfx", "bnb-model"]
    assert [model_of(name) for name in names] == [name.lower() for name in names]
