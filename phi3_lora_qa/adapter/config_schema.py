"""Which fields an adapter_config.json may have, and which values each may take.

This follows LoraConfig of peft 0.21.2 (tuners/lora/config.py) and what older versions wrote.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from phi3_lora_qa.adapter.config_values import (
    Field,
    boolean,
    ignored_object,
    layers,
    name_or_names,
    names,
    names_or_pattern,
    number,
    one_of,
    optional,
    probability,
    rank,
    table,
    text,
)
from phi3_lora_qa.adapter.lora_variants import block_diagonal, monteclora, trained_tokens, velora

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
        "qalora_group_size": Field(read=optional(number), default=16),
        "ensure_weight_tying": Field(read=boolean, default=False),
        "target_parameters": Field(read=optional(names, ()), default=()),
        "trainable_token_indices": Field(read=optional(trained_tokens, {}), default={}),
        "use_bdlora": Field(read=optional(block_diagonal)),
        "velora_config": Field(read=optional(velora, 0), default=0),
        "monteclora_config": Field(read=optional(monteclora, 0), default=0),
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
        "alora_invocation_tokens": "the adapter acts only behind its invocation tokens, so that "
        "nothing measured on other prompts tells what it does",
        "use_qalora": "it is for a base quantised by GPTQ, and base and adapter are compared in "
        "floating point here",
    }
)
"""Fields that are refused unless they are null, false or empty, each with the reason."""

SET_WHEN_EMPTY = ("arrow_config", "kasa_config")
"""Of those, what peft takes for set, with default values, even where it is an empty object."""
