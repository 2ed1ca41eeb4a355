"""Checks of [training], [peft] and [quantization] against the libraries' own config classes.

The Phi-3 cookbook's examples were written for older versions of the libraries. A setting that was
only renamed is accepted with a note; one that must be set elsewhere is rejected with the place.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.strict_values import require_known, require_type

_TRAINING_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
    "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps",
}
_TOKENIZER = "the base's own tokenizer and chat template are used, as in the gate; remove it"
_MESSAGES = "rows are conversations under 'messages', rendered with the base's template; remove it"
_HUB = "set repo_id and private in the [hub] table"
_TRAINING_REFUSED = {
    "tokenizer": _TOKENIZER,
    "processing_class": _TOKENIZER,
    "chat_template_path": _TOKENIZER,
    "eos_token": _TOKENIZER,
    "pad_token": _TOKENIZER,
    "formatting_func": _MESSAGES,
    "dataset_kwargs": _MESSAGES,
    "completion_only_loss": "rows are whole conversations; use assistant_only_loss",
    "model_init_kwargs": "set base, dtype and attn_implementation in the [model] table",
    "peft_config": "put the LoRA settings in the [peft] table",
    "disable_tqdm": "training shows its own progress bar; remove it",
    "group_by_length": 'write train_sampling_strategy = "group_by_length"',
    "truncation_mode": "conversations are always cut at the end; remove it",
} | dict.fromkeys(
    (
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
        "hub_token",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
    ),
    _HUB,
)
_TRAINING_WITHOUT_EFFECT = {"dataset_text_field": _MESSAGES}

_PEFT_RENAMED = {"lora_r": "r", "lora_rank": "r", "rank": "r", "alpha": "lora_alpha"}
_PEFT_REFUSED = {
    "base_model_name_or_path": "it is set from model.base; remove it",
    "revision": "set model.base to a folder that contains this revision",
    "auto_mapping": "it is set when the adapter is saved; remove it",
    "peft_version": "it is set when the adapter is saved; remove it",
    "layer_replication": "it changes the base that the adapter is compared with; remove it",
}
_LORALIB = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "task_type", "inference_mode",
)  # fmt: skip
_REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "eva")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Checked keyword arguments of a library's config class; ``notes`` are remarks for the user."""

    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def training_arguments(raw: Mapping[str, Any]) -> Arguments:
    """Check ``training_config`` against TRL's SFTConfig.

    Raises:
        InputError: SFTConfig has no such setting (with the closest name), a value has the wrong
            type, or a setting belongs elsewhere.
    """
    from trl.trainer.sft_config import SFTConfig

    values, notes = _current(raw, _TRAINING_RENAMED, _TRAINING_REFUSED, "[training]")
    for name, why in _TRAINING_WITHOUT_EFFECT.items():
        if name in values:
            del values[name]
            notes.append(f"[training] {name} has no effect: {why}")
    # The documented type is a path; Trainer.train() itself also accepts True, for the newest.
    resume = values.pop("resume_from_checkpoint", None)
    if resume is not None and not isinstance(resume, str | bool):
        raise InputError(
            "[training]: 'resume_from_checkpoint' must be true or a checkpoint folder: got "
            f"{escape(repr(resume), 60)}"
        )
    _check(values, SFTConfig, "[training]")
    if values.get("learning_rate", 0) < 0:
        raise InputError("[training]: 'learning_rate' is negative; set it to 0 or more")
    if values.pop("trust_remote_code", False):
        raise InputError(
            "[training]: code from a model folder is never run; remove trust_remote_code"
        )
    if resume:
        values["resume_from_checkpoint"] = resume
    return Arguments(values=values, notes=tuple(notes))


def peft_arguments(raw: Mapping[str, Any]) -> Arguments:
    """Check ``peft_config`` against PEFT's LoraConfig; the default targets are "all-linear".

    Raises:
        InputError: As ``training_arguments``; also for an initialisation that changes the base's
            weights, since the gate would then compare the adapter with a different base.
    """
    from peft import LoraConfig

    values, notes = _current(raw, _PEFT_RENAMED, _PEFT_REFUSED, "[peft]")
    _check(values, LoraConfig, "[peft]")
    for name, only in (
        ("task_type", "CAUSAL_LM"),
        ("peft_type", "LORA"),
        ("inference_mode", False),
    ):
        if values.setdefault(name, only) != only:
            raise InputError(
                f"[peft]: '{name}' must be {only!r} to train a chat model with LoRA: got "
                f"{escape(repr(values[name]), 60)}; remove it"
            )
    del values["peft_type"]
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(_REWRITES_BASE):
        raise InputError(
            f"[peft]: init_lora_weights = '{escape(start, 40)}' changes the base's weights, "
            'so base and tuned model could not be compared; use true or "gaussian"'
        )
    if values.get("target_modules") is None:
        values["target_modules"] = "all-linear"
    return Arguments(values=values, notes=tuple(notes))


def require_loralib_settings(peft: Arguments) -> None:
    """Raise if a setting of LoraConfig has no counterpart in loralib's layers.

    Raises:
        InputError: Names the setting.
    """
    for name, value in peft.values.items():
        if name not in _LORALIB and value not in (None, False, [], {}):
            raise InputError(
                f"[peft]: loralib does not support '{name}', only {', '.join(_LORALIB[:4])}; "
                'remove it, or use [engine] name = "peft"'
            )
    if peft.values.get("bias", "none") != "none":
        raise InputError(
            "[peft]: loralib would train the base's biases, which an adapter does not contain; "
            'set bias = "none"'
        )


def quantization_arguments(raw: Mapping[str, Any]) -> Arguments:
    """Check the [quantization] table against BitsAndBytesConfig, by the types of its defaults.

    Raises:
        InputError: A name is unknown, a value has the wrong type, or neither 4 nor 8 bits are set.
    """
    from transformers import BitsAndBytesConfig

    known = {
        name: parameter.default
        for name, parameter in inspect.signature(BitsAndBytesConfig.__init__).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name != "self"
    }
    require_known(raw, known, "[quantization]")
    for name, value in raw.items():
        if known[name] is not None:
            require_type(value, type(known[name]), name, "[quantization]")
    if raw and not (raw.get("load_in_4bit") or raw.get("load_in_8bit")):
        raise InputError("[quantization]: nothing is quantized; set load_in_4bit = true")
    return Arguments(values=dict(raw))


def _current(
    raw: Mapping[str, Any], renamed: Mapping[str, str], refused: Mapping[str, str], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Replace older names with current ones, with a note; reject names that belong elsewhere."""
    values: dict[str, Any] = {}
    notes = []
    for name, value in raw.items():
        if name in refused:
            raise InputError(f"{where}: '{name}' cannot be set here; {refused[name]}")
        current = renamed.get(name, name)
        if current in values or (current != name and current in raw):
            raise InputError(
                f"{where}: '{name}' is the older name of '{current}'; keep '{current}' only"
            )
        if current != name:
            notes.append(f"{where} {name} was read as {current}, its current name")
        values[current] = value
    return values, notes


def _check(values: Mapping[str, Any], config_class: Any, where: str) -> None:
    hints = get_type_hints(config_class)
    require_known(values, [f.name for f in fields(config_class)], where)
    for name, value in values.items():
        require_type(value, hints[name], name, where)
