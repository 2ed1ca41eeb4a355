"""Judges the fields of an adapter_config.json that `config_schema` does not read.

peft drops a field that it does not know, with a warning (peft/config.py, from_peft_type): the field
cannot change what peft loads. It can only say that the adapter was trained as something else.
"""

import re
from collections.abc import Mapping
from typing import Any

from phi3_lora_qa.adapter.auto_mapping import check_auto_mapping
from phi3_lora_qa.adapter.config_problem import ConfigProblem, ProblemKind
from phi3_lora_qa.adapter.config_schema import (
    FIELDS,
    LATEST_PEFT,
    REFUSED,
    SAME_AS,
    SET_WHEN_EMPTY,
    WITHOUT_EFFECT,
)

_SWITCH = re.compile(r"(use|enable|is|with)_.*|.*_config")
"""The names that peft gives to its variants of LoRA, such as use_dora and velora_config."""


def check_other_fields(raw: Mapping[str, Any]) -> list[ConfigProblem]:
    """Return the problems with fields that are set, but are not in `config_schema.FIELDS`."""
    return [
        problem
        for name, value in raw.items()
        if name not in FIELDS and (value or (name in SET_WHEN_EMPTY and value is not None))
        if (problem := _check(name, value, raw))
    ]


def _check(name: str, value: Any, raw: Mapping[str, Any]) -> ConfigProblem | None:
    if name == "auto_mapping":
        return check_auto_mapping(value, raw.get("task_type"))
    if reason := REFUSED.get(name):
        return ConfigProblem(
            kind=ProblemKind.REFUSED,
            field=name,
            message=f"{name} is set: {reason}",
            fix=f"train without {name}, or set it to null if it was set by mistake",
        )
    if name in WITHOUT_EFFECT or _repeats(name, value, raw):
        return None
    if _is_newer(raw.get("peft_version")):
        version = raw["peft_version"]
        return _unknown(name, f"peft {version} wrote it, and nothing is known about it here")
    if value is True or _SWITCH.fullmatch(name):
        return _unknown(
            name,
            "peft drops it on loading, so if it switched a variant of LoRA on in training, the "
            "adapter loads as another one",
        )
    own = SAME_AS.get(name)
    instead = f" and uses {own} ({raw.get(own)!r:.40})" if own else ""
    return ConfigProblem(
        kind=ProblemKind.IGNORED,
        field=name,
        message=f"peft has no field {name} for LoRA and ignores it{instead}, so what it may have "
        "changed in training is lost",
        fix=f"remove {name} if it was for training only; otherwise train without it",
    )


def _unknown(name: str, reason: str) -> ConfigProblem:
    return ConfigProblem(
        kind=ProblemKind.UNKNOWN,
        field=name,
        message=f"the unknown field {name} is set: {reason}",
        fix=f"remove {name} if it was for training only; otherwise train without it",
    )


def _repeats(name: str, value: Any, raw: Mapping[str, Any]) -> bool:
    """Whether a field repeats the value of peft's own field under another name."""
    own = SAME_AS.get(name)
    return own is not None and own in raw and bool(value == raw[own])


def _is_newer(version: Any) -> bool:
    """Whether a version of peft is newer than the one whose fields are known here."""
    found = re.match(r"([0-9]{1,6})\.([0-9]{1,6})", version) if isinstance(version, str) else None
    return found is not None and (int(found[1]), int(found[2])) > LATEST_PEFT
