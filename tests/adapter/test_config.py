from pathlib import Path

import pytest

from phi3_lora_qa.adapter.config import parse_config, read_config
from phi3_lora_qa.adapter.config_problem import ProblemKind
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import base_config, old_config, plain
from tests.adapter.healthy import HEALTHY

SWAPS = [None, True, False, 0, 1, -1, 0.5, "", "text", [], ["a"], [1], {}, {"a": 1}, {"a": "b"}]


@pytest.mark.parametrize("variant", HEALTHY)
def test_every_healthy_config_is_read_without_a_problem(variant: str) -> None:
    reading = parse_config(HEALTHY[variant]().config)
    assert reading.problems == ()
    assert reading.config is not None


def test_fields_that_an_old_config_lacks_keep_their_old_meaning() -> None:
    config = parse_config(old_config("0.5")).config
    assert config is not None
    assert (config.use_rslora, config.use_dora, config.lora_bias) == (False, False, False)
    assert config.rank_pattern == {}
    assert config.exclude_modules == ()


@pytest.mark.parametrize("field", base_config())
def test_any_value_in_any_field_gives_a_config_or_a_problem_that_names_the_field(
    field: str,
) -> None:
    for value in SWAPS:
        reading = parse_config(base_config() | {field: value})
        for problem in reading.problems:
            assert problem.field == field or problem.kind is ProblemKind.CONFLICT
            assert field in problem.message or problem.kind is ProblemKind.CONFLICT
        assert reading.config is not None or reading.problems


def test_names_are_not_split_into_letters() -> None:
    reading = parse_config(base_config() | {"modules_to_save": "lm_head"})
    assert [problem.field for problem in reading.problems] == ["modules_to_save"]


def test_a_folder_with_a_problem_is_an_error_that_ends_with_the_fix(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["lora_alpha"] = "8"
    with pytest.raises(AdapterError, match=r"lora_alpha must be a number.*; set lora_alpha to"):
        read_config(AdapterFolder.open(adapter.save(tmp_path)))


def test_a_sound_folder_is_read(tmp_path: Path) -> None:
    config = read_config(AdapterFolder.open(plain().save(tmp_path)))
    assert config.r == 4
    assert set(config.target_modules) == set(base_config()["target_modules"])
