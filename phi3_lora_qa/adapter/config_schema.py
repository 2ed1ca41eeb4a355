"""The fields that an adapter_config.json may have, and the values of each.

This follows LoraConfig of peft 0.21.2 (tuners/lora/config.py) and files of older versions.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from phi3_lora_qa.adapter.config_values import (
    Field,
    flag,
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
"""Init labels with which loading does not change the base: the file overwrites what they set."""

CHANGES_BASE = {
    "pissa": "loading recomputes the principal component and subtracts it from the base weights",
    "olora": "loading recomputes the QR component and subtracts it from the base weights",
    "corda": "it needs the covariances of its training run, and its residual base model",
    "loftq": "loading replaces the base weights with quantised ones",
    "lora_ga": "it was trained on a base from which its first step had been subtracted",
}
"""Init labels with which loading or training changes the base."""


def init_label(value: Any) -> bool | str | None:
    """Read init_lora_weights; peft ignores the case of labels."""
    if value is None or isinstance(value, bool):
        return value
    label = value.lower() if isinstance(value, str) else ""
    if label in SAFE_INIT or label.startswith(("pissa", "corda")) or label in CHANGES_BASE:
        return label
    raise ValueError('must be true, false, or one of "gaussian", "eva", "orthogonal", "mica"')


FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "peft_type": Field(
            read=one_of("LORA"), required=True, if_missing="peft raises a KeyError without it"
        ),
        "task_type": Field(read=optional(text)),
        "peft_version": Field(read=optional(text)),
        "base_model_name_or_path": Field(read=optional(text)),
        "revision": Field(read=optional(text)),
        "inference_mode": Field(read=flag, default=False),
        "r": Field(read=rank, required=True, if_missing="peft then takes its default, 8"),
        "lora_alpha": Field(
            read=number,
            required=True,
            if_missing="peft silently takes its default, 8, so the scaling may be wrong",
        ),
        "lora_dropout": Field(read=probability, default=0.0),
        "target_modules": Field(
            read=names_or_pattern,
            required=True,
            if_missing="peft raises a ValueError: it has no default for Phi-3",
        ),
        "exclude_modules": Field(read=optional(names_or_pattern, ()), default=()),
        "modules_to_save": Field(read=optional(names, ()), default=()),
        "layers_to_transform": Field(read=optional(layers)),
        "layers_pattern": Field(read=optional(name_or_names, ()), default=()),
        "rank_pattern": Field(read=table(rank), default=MappingProxyType({})),
        "alpha_pattern": Field(read=table(number), default=MappingProxyType({})),
        "use_rslora": Field(read=flag, default=False),
        "use_dora": Field(read=flag, default=False),
        "lora_bias": Field(read=flag, default=False),
        "bias": Field(read=one_of("none", "all", "lora_only"), default="none"),
        "fan_in_fan_out": Field(read=flag, default=False),
        "init_lora_weights": Field(read=init_label, default=True),
        "loftq_config": Field(read=ignored_object),
        "eva_config": Field(read=ignored_object),
        "corda_config": Field(read=ignored_object),
        "lora_ga_config": Field(read=ignored_object),
        "megatron_core": Field(read=optional(one_of("megatron.core")), default="megatron.core"),
        "qalora_group_size": Field(read=optional(number), default=16),
        "ensure_weight_tying": Field(read=flag, default=False),
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
        "compared with the base",
        "megatron_config": "it loads Megatron code and replaces the base's layers",
        "kasa_config": "loading removes singular values from the base weights",
        "arrow_config": "an Arrow router combines other adapters, which are not in this folder",
        "alora_invocation_tokens": "the adapter is active only after its invocation tokens, so "
        "measurements on other prompts say nothing about it",
        "enable_lora": "peft 0.2 adapted only parts of a layer with it, and newer versions ignore "
        "it and adapt the whole layer",
        "use_qalora": "it needs a base quantised with GPTQ, and the base and the adapter are "
        "compared in floating point here",
    }
)
"""Fields that must be null, false or empty, each with the reason."""

WITHOUT_EFFECT = frozenset(
    (
        "merge_weights",  # peft 0.2: whether to merge when the model is evaluated
        "runtime_config",  # peft removes it from a file, with a warning
        "swift_type", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr",  # ms-swift
        "loraplus_lr_ratio", "loraplus_lr_embedding", "loraplus_emb_lr", "loraplus_weight_decay",
        "unsloth_fixed", "unsloth_version", "use_gradient_checkpointing",
        "gradient_checkpointing", "max_seq_length", "random_state", "seed", "learning_rate",
        "lora_plus_scale", "transformers_version", "torch_version", "torch_dtype", "dtype",
        "model_type", "model_name_or_path", "library_name", "_name_or_path", "_commit_hash",
    )
)  # fmt: skip
"""Fields that say how a program trained or who wrote the file; no program computes with them."""

SAME_AS: Mapping[str, str] = MappingProxyType(
    {
        "alpha": "lora_alpha",
        "lora_r": "r",
        "lora_rank": "r",
        "rank": "r",
        "dropout": "lora_dropout",
        "lora_target": "target_modules",
        "lora_target_modules": "target_modules",
        "lora_modules_to_save": "modules_to_save",
        "base_model": "base_model_name_or_path",
        "base_model_name": "base_model_name_or_path",
    }
)
"""Other programs' names for fields of peft; with peft's value they say nothing new."""

LATEST_PEFT = (0, 21)
"""The newest version of peft whose fields are known here."""

SET_WHEN_EMPTY = ("arrow_config", "kasa_config")
"""Of those, fields that peft treats as set, with default values, even if the object is empty."""
