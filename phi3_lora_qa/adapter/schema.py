"""Which fields an adapter_config.json may have, and which values each may take.

This follows LoraConfig of peft 0.21.2 (tuners/lora/config.py) and what older versions wrote. A
reader here returns the value in its one accepted form, or raises ValueError with the end of a
sentence that begins with the field's name.
"""

# ruff: noqa: TRY004 - a wrong type is a wrong value of a file here, reported like any other

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

MAX_RANK = 1 << 16
MAX_NAMES = 2048
MAX_PATTERNS = 512


@dataclass(frozen=True, kw_only=True)
class Field:
    """How one field is read; ``default`` is what a missing field means."""

    read: Callable[[Any], Any]
    default: Any = None
    required: bool = False


def boolean(value: Any) -> bool:
    """Read true or false; 0 and 1 are numbers."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def rank(value: Any) -> int:
    """Read a rank: a positive integer."""
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise ValueError(f"must be an integer from 1 to {MAX_RANK}")
    return value


def number(value: Any) -> float:
    """Read a finite number that float32 holds, as all arithmetic with it is float32."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("must be a number")
    if not math.isfinite(value) or abs(value) > 3e38:
        raise ValueError("must be a finite number")
    return float(value)


def probability(value: Any) -> float:
    """Read a number from 0 up to, but not including, 1."""
    read = number(value)
    if not 0 <= read < 1:
        raise ValueError("must be at least 0 and less than 1")
    return read


def text(value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def optional(read: Callable[[Any], Any], default: Any = None) -> Callable[[Any], Any]:
    """Let null stand for the default."""
    return lambda value: default if value is None else read(value)


def one_of(*choices: Any) -> Callable[[Any], Any]:
    """Read one of these values, type included: 1 is not true."""

    def read(value: Any) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise ValueError(f"must be one of {', '.join(map(_shown, choices))}")

    return read


def names(value: Any) -> tuple[str, ...]:
    """Read a list of names."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("must be a list of names")
    if len(value) > MAX_NAMES:
        raise ValueError(f"must hold no more than {MAX_NAMES} names")
    return tuple(value)


def names_or_pattern(value: Any) -> tuple[str, ...] | str:
    """Read a list of names, or one regular expression."""
    return text(value) if isinstance(value, str) else names(value)


def name_or_names(value: Any) -> tuple[str, ...]:
    """Read one name or a list of them; an empty text means none, as it does for peft."""
    return tuple(filter(None, (value,))) if isinstance(value, str) else names(value)


def layers(value: Any) -> tuple[int, ...] | None:
    """Read one layer index or a list of them; an empty list means all, as it does for peft."""
    items = value if isinstance(value, list) else [value]
    if not all(type(item) is int and 0 <= item < 100_000 for item in items):
        raise ValueError("must be a layer index or a list of them")
    if len(items) > MAX_NAMES:
        raise ValueError(f"must hold no more than {MAX_NAMES} indices")
    return tuple(items) or None


def table(read: Callable[[Any], Any]) -> Callable[[Any], Mapping[str, Any]]:
    """Read an object that maps patterns to values, in its order: the first match counts."""

    def read_table(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must map names to numbers")
        if len(value) > MAX_PATTERNS:
            raise ValueError(f"must hold no more than {MAX_PATTERNS} entries")
        found = {}
        for key, item in value.items():
            try:
                found[key] = read(item)
            except ValueError as error:
                raise ValueError(f"[{key!r}] {error}") from None
        return MappingProxyType(found)

    return read_table


def ignored_object(value: Any) -> None:
    """Accept null or an object that peft ignores, for every init label that is accepted here."""
    if value is not None and not isinstance(value, dict):
        raise ValueError("must be an object or null")


SAFE_INIT = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Init labels under which loading leaves the base alone: what they set, the file overwrites."""

CHANGES_BASE = {
    "pissa": "loading recomputes its principal part and takes it out of the base's weights",
    "olora": "loading recomputes its QR part and takes it out of the base's weights",
    "corda": "it needs the covariances of its training run, and its residual base",
    "loftq": "loading replaces the base's weights by quantised ones",
    "lora_ga": "it was trained against a base from which its first step had been taken out",
}
"""Init labels under which loading, or having trained, changes the base."""


def init_label(value: Any) -> bool | str | None:
    """Read init_lora_weights; peft compares the texts in lower case."""
    if value is None or isinstance(value, bool):
        return value
    label = value.lower() if isinstance(value, str) else ""
    if label in SAFE_INIT or label.startswith(("pissa", "corda")) or label in CHANGES_BASE:
        return label
    raise ValueError('must be true, false, or one of "gaussian", "eva", "orthogonal", "mica"')


FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "peft_type": Field(read=one_of("LORA"), required=True),
        "task_type": Field(read=optional(text)),
        "peft_version": Field(read=optional(text)),
        "base_model_name_or_path": Field(read=optional(text)),
        "revision": Field(read=optional(text)),
        "inference_mode": Field(read=boolean, default=False),
        "r": Field(read=rank, required=True),
        "lora_alpha": Field(read=number, required=True),
        "lora_dropout": Field(read=probability, default=0.0),
        "target_modules": Field(read=names_or_pattern, required=True),
        "exclude_modules": Field(read=optional(names_or_pattern, ()), default=()),
        "modules_to_save": Field(read=optional(names, ()), default=()),
        "layers_to_transform": Field(read=optional(layers)),
        "layers_pattern": Field(read=optional(name_or_names, ()), default=()),
        "rank_pattern": Field(read=optional(table(rank), {}), default=MappingProxyType({})),
        "alpha_pattern": Field(read=optional(table(number), {}), default=MappingProxyType({})),
        "use_rslora": Field(read=boolean, default=False),
        "use_dora": Field(read=boolean, default=False),
        "lora_bias": Field(read=boolean, default=False),
        "bias": Field(read=one_of("none", "all", "lora_only"), default="none"),
        "fan_in_fan_out": Field(read=boolean, default=False),
        "init_lora_weights": Field(read=init_label, default=True),
        "loftq_config": Field(read=ignored_object),
        "eva_config": Field(read=ignored_object),
        "corda_config": Field(read=ignored_object),
        "lora_ga_config": Field(read=ignored_object),
        "megatron_core": Field(read=optional(one_of("megatron.core")), default="megatron.core"),
        "qalora_group_size": Field(read=optional(rank), default=16),
    }
)

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "layer_replication": "it rebuilds the base's layers while loading, so that nothing can be "
        "compared with the base any more",
        "megatron_config": "it loads code of Megatron and replaces the base's layers by it",
        "runtime_config": "it belongs to a running program and not into a file",
        "kasa_config": "loading cuts singular values out of the base's weights",
        "arrow_config": "an Arrow router mixes other adapters, which are not in this folder",
        "alora_invocation_tokens": "the adapter acts only behind its invocation tokens, which is "
        "not checked yet",
        "use_bdlora": "its block-diagonal factors are not checked yet",
        "use_qalora": "it needs a GPTQ base, and its factors are not checked yet",
        "velora_config": "VeLoRA is not checked yet",
        "monteclora_config": "its sampler's tensors are not checked yet",
        "target_parameters": "adapters of single parameters are not checked yet; no Phi-3 has any",
        "trainable_token_indices": "trained token rows are not checked yet",
        "ensure_weight_tying": "adapters that share their weights are not checked yet",
    }
)
"""Fields that are refused unless they are null, false or empty, each with the reason."""


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
