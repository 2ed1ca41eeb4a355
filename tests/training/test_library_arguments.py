from typing import Any

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.library_arguments import (
    peft_arguments,
    quantization_arguments,
    training_arguments,
)

# The two dictionaries of the cookbook's sample_finetune.py, without output_dir and its overwrite:
# training_config moves those two to [output].
SAMPLE_TRAINING: dict[str, Any] = {
    "bf16": True,
    "do_eval": False,
    "learning_rate": 5.0e-06,
    "log_level": "info",
    "logging_steps": 20,
    "logging_strategy": "steps",
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 1,
    "max_steps": -1,
    "per_device_eval_batch_size": 4,
    "per_device_train_batch_size": 4,
    "remove_unused_columns": True,
    "save_steps": 100,
    "save_total_limit": 1,
    "seed": 0,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_accumulation_steps": 1,
    "warmup_ratio": 0.2,
}
SAMPLE_PEFT: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "bias": "none",
    "task_type": "CAUSAL_LM",
    "target_modules": "all-linear",
    "modules_to_save": None,
}


def test_the_cookbooks_training_config_is_accepted_unchanged() -> None:
    found = training_arguments(SAMPLE_TRAINING)
    wanted = {**SAMPLE_TRAINING, "warmup_steps": 0.2}
    del wanted["warmup_ratio"]
    assert found.values == wanted
    assert found.notes == ("[training] warmup_ratio was read as warmup_steps, its current name",)


def test_the_cookbooks_peft_config_is_accepted_unchanged() -> None:
    found = peft_arguments(SAMPLE_PEFT)
    assert found.values == {**SAMPLE_PEFT, "inference_mode": False}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("evaluation_strategy", "eval_strategy", "steps"),
        ("max_seq_length", "max_length", 512),
        ("no_cuda", "use_cpu", True),
    ],
)
def test_an_older_name_is_replaced_with_a_note(old: str, new: str, value: object) -> None:
    found = training_arguments({old: value})
    assert found.values == {new: value}
    assert f"{old} was read as {new}" in found.notes[0]


def test_an_older_name_together_with_the_current_one_is_rejected() -> None:
    with pytest.raises(InputError, match="older name of 'max_length'"):
        training_arguments({"max_seq_length": 1, "max_length": 2})
    with pytest.raises(InputError, match="older name of 'max_length'"):
        training_arguments({"max_length": 2, "max_seq_length": 1})


def test_a_setting_without_effect_is_dropped_with_a_note() -> None:
    found = training_arguments({"dataset_text_field": "text"})
    assert not found.values
    assert "dataset_text_field has no effect" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("learning_rat", 1e-4, "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ("learning_rate", "5e-6", "'learning_rate' is '5e-6'; use a finite number"),
        ("learning_rate", float("nan"), "'learning_rate' is nan; use a finite number"),
        ("learning_rate", float("inf"), "'learning_rate' is inf; use a finite number"),
        ("learning_rate", -1, "'learning_rate' is negative"),
        ("weight_decay", float("nan"), "'weight_decay' is nan; use a finite number"),
        ("max_steps", 1.5, "use a whole number"),
        ("max_steps", True, "use a whole number"),
        ("bf16", "True", "'bf16' is 'True'; use true or false"),
        ("gradient_checkpointing_kwargs", 3, "'gradient_checkpointing_kwargs' is 3"),
        ("tokenizer", "x", "the base's own tokenizer and chat template are used"),
        ("formatting_func", "x", "rows are conversations"),
        ("push_to_hub", True, "the [hub] table"),
        ("hub_token", "x", "the [hub] table"),
        ("completion_only_loss", True, "use assistant_only_loss"),
        ("model_init_kwargs", {}, "the [model] table"),
        ("peft_config", {}, "the [peft] table"),
        ("trust_remote_code", True, "is never run"),
        ("group_by_length", True, "train_sampling_strategy"),
        ("resume_from_checkpoint", 3, "true or a checkpoint folder"),
    ],
)
def test_an_invalid_training_setting_is_rejected_with_the_fix(
    name: str, value: object, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        training_arguments({name: value})
    assert says in str(caught.value)
    assert "[training]" in str(caught.value)


@pytest.mark.parametrize("resume", [True, "folder/checkpoint-2"])
def test_resuming_accepts_true_or_a_folder(resume: object) -> None:
    assert training_arguments({"resume_from_checkpoint": resume}).values == {
        "resume_from_checkpoint": resume
    }


def test_trust_remote_code_false_is_dropped() -> None:
    assert not training_arguments({"trust_remote_code": False}).values


@pytest.mark.parametrize("given", [{}, {"target_modules": None}])
def test_the_default_targets_are_all_linear_layers(given: dict[str, Any]) -> None:
    assert peft_arguments(given).values["target_modules"] == "all-linear"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("lora_aplha", 8, "did you mean 'lora_alpha'?"),
        ("r", "16", "'r' is '16'; use a whole number"),
        ("bias", "some", "use one of 'none', 'all', 'lora_only'"),
        ("target_modules", [1], "'target_modules' is [1]"),
        ("task_type", "SEQ_CLS", "must be 'CAUSAL_LM'"),
        ("peft_type", "IA3", "must be 'LORA'"),
        ("inference_mode", True, "must be False"),
        ("base_model_name_or_path", "x", "set from model.base"),
        ("layer_replication", [[0, 1]], "changes the base"),
        ("init_lora_weights", "pissa", "changes the base's weights"),
        ("init_lora_weights", "pissa_niter_4", "changes the base's weights"),
        ("init_lora_weights", "olora", "changes the base's weights"),
        ("init_lora_weights", "zeros", "'init_lora_weights' is 'zeros'"),
    ],
)
def test_an_invalid_lora_setting_is_rejected_with_the_fix(
    name: str, value: object, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        peft_arguments({name: value})
    assert says in str(caught.value)
    assert "[peft]" in str(caught.value)


def test_the_notebooks_name_for_the_rank_is_accepted() -> None:
    assert peft_arguments({"lora_r": 16}).values["r"] == 16


def test_the_notebooks_quantization_is_accepted() -> None:
    table = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_use_double_quant": True,
    }
    assert quantization_arguments(table).values == table


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"load_in_4bits": True}, "did you mean 'load_in_4bit'?"),
        ({"load_in_4bit": "yes"}, "use true or false"),
        ({"bnb_4bit_quant_type": "nf4"}, "set load_in_4bit = true"),
    ],
)
def test_an_invalid_quantization_is_rejected(table: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        quantization_arguments(table)
    assert says in str(caught.value)
