"""Recognizes an adapter_config.json that is not one of PEFT's LoRA."""

import re
from collections.abc import Mapping
from typing import Any

from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.adapter.identity.foreign_format import (
    MLX_FIX,
    TRAIN_LORA,
    WHOLE_MODEL_FIX,
    ForeignFormat,
)
from phi3_lora_qa.adapter.identity.peft_types import APPROXIMATED, LORA, OTHER_TYPES

_MLX = ("fine_tune_type", "lora_parameters", "lora_layers")
_MLX_VLM = ("rank", "alpha", "dropout")
_PEFT = ("peft_type", "r", "lora_alpha", "target_modules")
_ADAPTER_HUB = ("model_class", "model_name", "model_type", "hidden_size")
_TYPE_NAME = re.compile(r"[A-Z][A-Z0-9_]{2,40}")


def is_peft_lora(config: Mapping[str, Any] | None) -> bool:
    """Whether a config says that its adapter is a LoRA adapter of PEFT."""
    return config is not None and config.get("peft_type") == LORA


def format_by_config(config: Mapping[str, Any]) -> ForeignFormat | None:
    """Return the format that a config describes; None if it may be PEFT's LoRA.

    Args:
        config: The content of adapter_config.json. Its values are untrusted.
    """
    if "peft_type" in config:
        return _of_type(config["peft_type"])
    if named := [field for field in _MLX if field in config]:
        return _mlx(config, named)
    if not config or any(field in config for field in _PEFT):
        return None
    kind, found, fix = _by_fields(config)
    return ForeignFormat(kind=kind, where=CONFIG, found=found, fix=fix)


def _by_fields(config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what a config without any of PEFT's fields is, what shows it, and the fix."""
    if all(field in config for field in _MLX_VLM[:2]):
        fields = ", ".join(name for name in _MLX_VLM if name in config)
        return (
            "an adapter of mlx-vlm",
            f"the config has only {fields}",
            f"mlx-vlm's adapters cannot be converted: {TRAIN_LORA}",
        )
    if "config" in config and (named := [name for name in _ADAPTER_HUB if name in config]):
        return (
            "an adapter of the library `adapters` (AdapterHub)",
            f"the config has the fields config and {named[0]}",
            TRAIN_LORA,
        )
    if "architectures" in config or ("model_type" in config and "hidden_size" in config):
        return (
            "the config of a complete model under an adapter's name",
            f"its model type is {config.get('model_type')!r}",
            WHOLE_MODEL_FIX,
        )
    return "an adapter of another program", f"the config has none of {', '.join(_PEFT)}", TRAIN_LORA


def _of_type(value: Any) -> ForeignFormat | None:
    if not isinstance(value, str) or value == LORA:
        return None
    if value in OTHER_TYPES:
        return ForeignFormat(
            kind=f"an adapter of type {value}",
            where=f"{CONFIG}: peft_type",
            found=f"it consists of {OTHER_TYPES[value]}",
            fix=_fix_of_type(value),
        )
    if not _TYPE_NAME.fullmatch(value):
        return None  # a misspelling, which config-value reports
    return ForeignFormat(
        kind=f"an adapter of type {value}",
        where=f"{CONFIG}: peft_type",
        found="peft 0.21.2 has no such type",
        fix=TRAIN_LORA,
    )


def _fix_of_type(value: str) -> str:
    if value == "XLORA":
        return "check each of the LoRA adapters that it mixes, in that adapter's own folder"
    if value in APPROXIMATED:
        return (
            "approximate it as LoRA: peft.save_as_lora(DIR, peft.PeftModel.from_pretrained(model, "
            "FOLDER), rank=RANK); or train again with peft.LoraConfig"
        )
    return f"only LoRA is checked here: {TRAIN_LORA}"


def _mlx(config: Mapping[str, Any], named: list[str]) -> ForeignFormat:
    full = config.get("fine_tune_type") == "full"
    return ForeignFormat(
        kind="completely trained weights of mlx-lm" if full else "an adapter of mlx-lm",
        where=CONFIG,
        found=("fine_tune_type is 'full'" if full else f"the config has {' and '.join(named)}"),
        fix="train again with --fine-tune-type lora, then convert the adapter: " + MLX_FIX
        if full
        else f"convert it: {MLX_FIX}",
    )
