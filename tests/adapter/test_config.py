from pathlib import Path
from typing import Any

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


WRITTEN: dict[str, dict[str, Any]] = {
    "0.2": {
        "peft_type": "LORA", "base_model_name_or_path": None, "task_type": "CAUSAL_LM",
        "inference_mode": True, "r": 8, "target_modules": ["o_proj"], "lora_alpha": 16,
        "lora_dropout": 0.1, "merge_weights": False, "fan_in_fan_out": False, "enable_lora": None,
        "bias": "none", "modules_to_save": None,
    },
    "0.3": {"init_lora_weights": True},
    "0.4": {"auto_mapping": None, "revision": None, "layers_to_transform": None,
            "layers_pattern": None},
    "0.5": {},
    "0.6": {},
    "0.7": {"rank_pattern": {}, "alpha_pattern": {}, "megatron_config": None,
            "megatron_core": "megatron.core", "loftq_config": {}},
    "0.8": {"use_rslora": False},
    "0.9": {"use_dora": False},
    "0.10": {"layer_replication": None},
    "0.11": {},
    "0.12": {},
    "0.13": {},
    "0.14": {"exclude_modules": None, "eva_config": None, "lora_bias": False},
    "0.15": {"trainable_token_indices": None, "corda_config": None},
    "0.16": {"use_qalora": False, "qalora_group_size": 16},
    "0.17": {"target_parameters": None},
    "0.18": {"peft_version": "0.18.1", "alora_invocation_tokens": None, "arrow_config": None,
             "ensure_weight_tying": False},
    "0.19": {"lora_ga_config": None, "use_bdlora": None},
    "0.20": {"velora_config": None, "monteclora_config": None},
    "0.21": {"kasa_config": None},
}  # fmt: skip
"""What each version of peft writes for a plain adapter, in addition to the version before.

peft 0.3 no longer writes merge_weights and enable_lora.
"""


@pytest.mark.parametrize("version", WRITTEN)
def test_the_config_of_every_peft_is_read_without_a_problem(version: str) -> None:
    written: dict[str, Any] = {}
    for name, fields in WRITTEN.items():
        written |= fields
        if name == "0.3":
            del written["merge_weights"], written["enable_lora"]
        if name == version:
            break
    reading = parse_config(written)
    assert reading.problems == ()
    assert reading.config is not None


def test_the_table_of_versions_ends_with_the_fields_of_the_installed_peft() -> None:
    from peft import LoraConfig

    known = {name for fields in WRITTEN.values() for name in fields}
    assert set(LoraConfig().to_dict()) <= known


@pytest.mark.parametrize(
    ("field", "consequence"),
    [
        ("peft_type", "raises a KeyError"), ("target_modules", "raises a ValueError"),
        ("r", "takes its default, 8"), ("lora_alpha", "silently takes its default, 8"),
    ],
)  # fmt: skip
def test_a_missing_field_is_reported_with_what_peft_does(field: str, consequence: str) -> None:
    (found,) = parse_config({n: v for n, v in base_config().items() if n != field}).problems
    assert found.kind is ProblemKind.MISSING
    assert consequence in found.message


@pytest.mark.parametrize(
    ("field", "default"),
    [("lora_dropout", "0.0"), ("bias", '"none"'), ("rank_pattern", "{}"), ("alpha_pattern", "{}")],
)
def test_the_fix_of_a_null_that_peft_fails_on_is_pefts_default(field: str, default: str) -> None:
    (found,) = parse_config(base_config() | {field: None}).problems
    assert found.message == f"{field} is null, and peft raises an error for it"
    assert found.fix == f"set {field} to {default}"


def test_parameters_alone_need_no_target_modules() -> None:
    fields = {"target_modules": None, "target_parameters": ["mlp.down_proj.weight"]}
    config = parse_config(base_config() | fields).config
    assert config is not None
    assert config.target_modules == ()


def test_the_fields_of_another_type_are_not_judged() -> None:
    (found,) = parse_config({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 20}).problems
    assert found.field == "peft_type"


def test_the_fields_of_another_program_are_not_judged_as_those_of_peft() -> None:
    raw = {"fine_tune_type": "lora", "num_layers": 16, "train": True, "lora_parameters": {"r": 8}}
    problems = parse_config(raw).problems
    assert {problem.kind for problem in problems} == {ProblemKind.MISSING}


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
