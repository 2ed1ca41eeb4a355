"""Fields that peft's LoraConfig does not have."""

from typing import Any

import pytest

from phi3_lora_qa.adapter.config_other_fields import check_other_fields
from phi3_lora_qa.adapter.config_problem import ProblemKind
from tests.adapter.adapters import base_config


def kinds(**fields: Any) -> list[ProblemKind]:
    return [problem.kind for problem in check_other_fields(base_config() | fields)]


@pytest.mark.parametrize(
    "fields",
    [
        {"swift_type": "LORA", "lorap_lr_ratio": 16.0, "lorap_emb_lr": 1e-6},
        {"enable_lora": None, "merge_weights": False},
        {"enable_lora": [], "merge_weights": True},
        {"runtime_config": {"ephemeral_gpu_offload": True}},
        {"alpha": 8, "rank": 4, "lora_target_modules": base_config()["target_modules"]},
        {"use_something": False, "something_config": {}, "somethings": [], "note": "", "n": 0},
    ],
)
def test_fields_without_an_effect_are_accepted_silently(fields: dict[str, Any]) -> None:
    assert kinds(**fields) == []


@pytest.mark.parametrize("value", [16, 1, 0.5, "sixteen", [1], {"a": 1}])
def test_a_value_that_peft_ignores_is_noted(value: Any) -> None:
    assert kinds(lora_scale=value) == [ProblemKind.IGNORED]


def test_the_note_names_the_field_that_peft_uses_instead() -> None:
    (found,) = check_other_fields(base_config() | {"alpha": 99})
    assert "uses lora_alpha (8)" in found.message


@pytest.mark.parametrize(
    "fields",
    [
        {"use_mora": True}, {"mora": True}, {"use_mora": 1}, {"is_mora": "yes"},
        {"mora_config": {"a": 1}}, {"anything": 3, "peft_version": "0.22.0"},
        {"anything": 3, "peft_version": "1.0.0.dev0@abc"},
    ],
)  # fmt: skip
def test_a_field_that_may_switch_a_variant_on_is_unknown(fields: dict[str, Any]) -> None:
    assert kinds(**fields) == [ProblemKind.UNKNOWN]


def test_a_newer_peft_without_new_fields_is_accepted() -> None:
    assert kinds(peft_version="0.22.0", new_field=None, use_new_field=False) == []


def test_the_parts_of_layers_of_peft_0_2_are_refused_by_name() -> None:
    (found,) = check_other_fields(base_config() | {"enable_lora": [True, False, True]})
    assert found.kind is ProblemKind.REFUSED
    assert found.field == "enable_lora"
