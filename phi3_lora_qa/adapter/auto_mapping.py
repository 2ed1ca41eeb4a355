"""What the field auto_mapping of an adapter_config.json can load.

Only AutoPeftModel reads it, and only without a task type (peft/auto.py, 0.4 to 0.21): it imports
the module and loads the base with the class of that name. Since 0.20 it imports modules of
transformers and a few other libraries only.
"""

import re
from collections.abc import Mapping
from typing import Any

from phi3_lora_qa.adapter.config_problem import ConfigProblem, ProblemKind

_FIELDS = ("parent_library", "base_model_class")
_OWN_MODULE = re.compile(r"transformers\.models\.([a-z0-9_]+)(\.modeling_\1)?", re.ASCII)
_REMOTE_MODULE = re.compile(r"transformers_modules(\.[\w-]+)*\.modeling_\w+", re.ASCII)
"""The code of a base that a user downloaded and trusted; peft never downloads it."""

_PEFT_MODULE = "peft.peft_model"
"""The module of an adapter that was put on another adapter; AutoPeftModel cannot load it."""

_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]*", re.ASCII)
_LANGUAGE_MODEL = re.compile(r"[A-Z][A-Za-z0-9]*(ForCausalLM|LMHeadModel)", re.ASCII)


def check_auto_mapping(value: Any, task_type: Any) -> ConfigProblem | None:
    """Return what is wrong with a mapping that is set; None if nothing is.

    Args:
        value: The mapping, which peft writes without a task type. Other tools add flags to the
            two names (Unsloth: unsloth_fixed).
        task_type: The task type of the same config.
    """
    if task_type is not None:
        if _names_a_known_library(value):
            return None
        return ConfigProblem(
            kind=ProblemKind.IGNORED,
            field="auto_mapping",
            message=f"auto_mapping names {_named(value)}, which is not a class of transformers or "
            "peft, but nothing reads it in a config with a task type",
            fix="set auto_mapping to null",
        )
    if _names_a_known_library(value) and (
        value.get("parent_library") == _PEFT_MODULE
        or _LANGUAGE_MODEL.fullmatch(value["base_model_class"])
    ):
        return None
    return ConfigProblem(
        kind=ProblemKind.REFUSED,
        field="auto_mapping",
        message=f"auto_mapping names {_named(value)}: without a task type, peft's AutoPeftModel "
        "loads the base with it, and it is not a language model of transformers",
        fix='set task_type to "CAUSAL_LM" and auto_mapping to null',
    )


def _names_a_known_library(value: Any) -> bool:
    """Whether the mapping names a class of transformers, its remote code, or peft; and no more."""
    if not isinstance(value, Mapping):
        return False
    library, name = map(value.get, _FIELDS)
    further = [item for key, item in value.items() if key not in _FIELDS]
    if any(isinstance(item, (dict, list, str)) for item in further):
        return False
    if not isinstance(name, str) or not _CLASS.fullmatch(name):
        return False
    if library is None or library == _PEFT_MODULE:
        return True
    patterns = (_OWN_MODULE, _REMOTE_MODULE)
    return isinstance(library, str) and any(p.fullmatch(library) for p in patterns)


def _named(value: Any) -> str:
    if not isinstance(value, Mapping):
        return repr(value)
    return " of ".join(repr(value.get(field)) for field in reversed(_FIELDS))
