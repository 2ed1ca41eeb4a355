"""The libraries' own names: what [training], [peft] and [quantization] may say, and older names.

The source's examples were written for older libraries. A name that only changed is taken over and
noted; one that means something else today is refused with what to write instead.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.training.strict_values import require_known, require_type

_TRAINING_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
    "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps",
}
_TOKENIZER = "the tokenizer and chat template of the base are used, as the gate will; leave it out"
_MESSAGES = (
    "rows are conversations under 'messages', rendered with the base's template; leave it out"
)
_HUB = "pushing is set in the [hub] table: repo_id, private"
_TRAINING_REFUSED = {
    "tokenizer": _TOKENIZER,
    "processing_class": _TOKENIZER,
    "chat_template_path": _TOKENIZER,
    "eos_token": _TOKENIZER,
    "pad_token": _TOKENIZER,
    "formatting_func": _MESSAGES,
    "dataset_kwargs": _MESSAGES,
    "completion_only_loss": "rows are whole conversations; use assistant_only_loss",
    "model_init_kwargs": "the base is set in the [model] table: base, dtype, attn_implementation",
    "peft_config": "the LoRA settings belong in the [peft] table",
    "disable_tqdm": "training shows one progress bar of its own; leave it out",
    "group_by_length": 'today\'s name is train_sampling_strategy = "group_by_length"',
    "truncation_mode": "a conversation is cut at its end; leave it out",
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
_TRAINING_IDLE = {"dataset_text_field": _MESSAGES}

_PEFT_RENAMED = {"lora_r": "r", "lora_rank": "r", "rank": "r", "alpha": "lora_alpha"}
_PEFT_REFUSED = {
    "base_model_name_or_path": "it is set from model.base; leave it out",
    "revision": "name a folder that holds this revision in model.base",
    "auto_mapping": "it is set when the adapter is saved; leave it out",
    "peft_version": "it is set when the adapter is saved; leave it out",
    "layer_replication": "it changes the base that the adapter is compared with; leave it out",
}
_LORALIB = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "task_type", "inference_mode",
)  # fmt: skip
_REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "eva")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Checked keyword arguments for a library's config class, and what was taken over for whom."""

    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def training_arguments(raw: Mapping[str, Any]) -> Arguments:
    """Check ``training_config`` against TRL's SFTConfig.

    Raises:
        InputError: A name that SFTConfig does not have (with the nearest one), a value of another
            type, or a setting that belongs elsewhere.
    """
    from trl.trainer.sft_config import SFTConfig

    values, notes = _current(raw, _TRAINING_RENAMED, _TRAINING_REFUSED, "[training]")
    for name, why in _TRAINING_IDLE.items():
        if name in values:
            del values[name]
            notes.append(f"[training] {name} has no effect: {why}")
    # The documented type is a path; "true" resumes the newest, as Trainer.train() itself takes it.
    resume = values.pop("resume_from_checkpoint", None)
    if resume is not None and not isinstance(resume, str | bool):
        raise InputError("[training]: 'resume_from_checkpoint' must be true or a checkpoint folder")
    _check(values, SFTConfig, "[training]")
    if values.get("learning_rate", 0) < 0:
        raise InputError("[training]: 'learning_rate' is below zero; give a number from zero on")
    if values.pop("trust_remote_code", False):
        raise InputError(
            "[training]: code from a model's folder is never run; drop trust_remote_code"
        )
    if resume:
        values["resume_from_checkpoint"] = resume
    return Arguments(values=values, notes=tuple(notes))


def peft_arguments(raw: Mapping[str, Any]) -> Arguments:
    """Check ``peft_config`` against PEFT's LoraConfig; the default targets are "all-linear".

    Raises:
        InputError: As ``training_arguments``; also an initialisation that rewrites the base, which
            makes the gate compare the adapter with a base that never was.
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
            raise InputError(f"[peft]: '{name}' must be {only!r} to train a chat model with LoRA")
    del values["peft_type"]
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(_REWRITES_BASE):
        raise InputError(
            f"[peft]: init_lora_weights = '{escape(start, 40)}' rewrites the base's own "
            'weights, so base and tuned could not be compared; use true or "gaussian"'
        )
    if values.get("target_modules") is None:
        values["target_modules"] = "all-linear"
    return Arguments(values=values, notes=tuple(notes))


def require_loralibs(peft: Arguments) -> None:
    """Refuse settings of LoraConfig that loralib's layers do not know.

    Raises:
        InputError: With the setting.
    """
    for name, value in peft.values.items():
        if name not in _LORALIB and value not in (None, False, [], {}):
            raise InputError(
                f"[peft]: loralib knows no '{name}', only {', '.join(_LORALIB[:4])}; "
                'leave it out, or use [engine] name = "peft"'
            )
    if peft.values.get("bias", "none") != "none":
        raise InputError(
            "[peft]: with trained biases a loralib model is no adapter over its base; "
            'set bias = "none"'
        )


def quantization_arguments(raw: Mapping[str, Any]) -> Arguments:
    """Check the [quantization] table against BitsAndBytesConfig, by the types of its defaults.

    Raises:
        InputError: An unknown name, a value of another type, or neither 4 nor 8 bits asked for.
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
    """Replace older names by today's, with a note; refuse names that belong elsewhere."""
    values: dict[str, Any] = {}
    notes = []
    for name, value in raw.items():
        if name in refused:
            raise InputError(f"{where}: '{name}' cannot be set here; {refused[name]}")
        today = renamed.get(name, name)
        if today in values or (today != name and today in raw):
            raise InputError(f"{where}: '{name}' is the older name of '{today}'; keep '{today}'")
        if today != name:
            notes.append(f"{where} {name} was taken as {today}, its name today")
        values[today] = value
    return values, notes


def _check(values: Mapping[str, Any], config_class: Any, where: str) -> None:
    hints = get_type_hints(config_class)
    require_known(values, [f.name for f in fields(config_class)], where)
    for name, value in values.items():
        require_type(value, hints[name], name, where)
