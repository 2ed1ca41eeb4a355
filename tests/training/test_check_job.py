from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import BaseModelError, InputError
from phi3_lora_qa.training.check_job import check_job
from phi3_lora_qa.training.training_config import TrainConfig, config_from_tables


def config(**changes: Any) -> TrainConfig:
    tables: dict[str, Any] = {
        "model": {"base": "tiny"},
        "data": {"train": Path("rows.jsonl")},
        "output": {"dir": Path("adapter")},
    }
    return config_from_tables(tables | changes, "a test")


def test_a_job_has_the_base_and_the_checked_arguments() -> None:
    job = check_job(config(training={"max_seq_length": 64}, peft={"lora_r": 4}))
    assert job.base.id == "tiny"
    assert job.training.values == {"max_length": 64}
    assert job.peft.values["r"] == 4
    assert job.peft.values["target_modules"] == "all-linear"


def test_data_and_output_are_not_needed_to_check_the_settings() -> None:
    check_job(config(data={"train": Path("absent.jsonl")}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft": {"target_modules": ["q_proj"]}}, r'use target_modules = \["qkv_proj"\]'),
        ({"training": {"learning_rat": 1.0}}, "did you mean 'learning_rate'"),
        ({"quantization": {"bnb_4bit_quant_type": "nf4"}}, "set load_in_4bit = true"),
    ],
)
def test_an_invalid_setting_is_rejected(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_job(config(**changes))


def test_an_unknown_base_is_rejected() -> None:
    with pytest.raises(BaseModelError):
        check_job(config(model={"base": "phi9"}))
