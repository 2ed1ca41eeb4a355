"""Builders of adapters for the tiny base, with numpy only; tests modify and lint them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, lint
from phi3_lora_qa.adapter.rule_selection import Selection
from tests.adapter.packing import Array, Raw, pack
from tests.adapter.tiny_base import LEAVES, module_names, sizes

RANK = 4
P = "base_model.model."
"""peft's prefix of every tensor name."""


@dataclass
class Adapter:
    """An adapter that tests can modify before saving: config, tensors and other files."""

    config: dict[str, Any]
    tensors: dict[str, Array | Raw]
    files: dict[str, bytes] = field(default_factory=dict)
    after: list[Callable[[Path], object]] = field(default_factory=list)

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        (folder / "adapter_model.safetensors").write_bytes(pack(self.tensors))
        for name, content in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        for step in self.after:
            step(folder)
        return folder

    def names(self, end: str) -> list[str]:
        return [name for name in self.tensors if name.endswith(end)]

    def array(self, name: str) -> Array:
        tensor = self.tensors[name]
        assert not isinstance(tensor, tuple)
        return tensor

    def rename(self, change: Callable[[str], str]) -> None:
        self.tensors = {change(name): tensor for name, tensor in self.tensors.items()}


def base_config() -> dict[str, Any]:
    """Return the config that peft 0.21 writes for a plain adapter."""
    return {
        "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
        "auto_mapping": None, "base_model_name_or_path": "tiny", "bias": "none",
        "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
        "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
        "layers_pattern": None, "layers_to_transform": None, "loftq_config": {},
        "lora_alpha": 8, "lora_bias": False, "lora_dropout": 0.0, "lora_ga_config": None,
        "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
        "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2",
        "qalora_group_size": 16, "r": RANK, "rank_pattern": {}, "revision": None,
        "target_modules": list(LEAVES), "target_parameters": None, "task_type": "CAUSAL_LM",
        "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
        "use_qalora": False, "use_rslora": False, "velora_config": None,
    }  # fmt: skip


def old_config(version: str) -> dict[str, Any]:
    """Return the config that an older peft version wrote."""
    fields = {
        "0.5": "auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode "
        "init_lora_weights layers_pattern layers_to_transform lora_alpha lora_dropout "
        "modules_to_save peft_type r revision target_modules task_type",
        "0.8": "alpha_pattern loftq_config megatron_config megatron_core rank_pattern use_rslora",
        "0.11": "layer_replication use_dora",
        "0.14": "eva_config exclude_modules lora_bias",
    }
    known: list[str] = []
    for since, names in fields.items():
        known += names.split()
        if since == version:
            break
    return {name: value for name, value in base_config().items() if name in known}


def factors(
    modules: list[str], seed: int = 0, ranks: Mapping[str, int] | None = None
) -> dict[str, Array | Raw]:
    """Return factors that look trained: A as peft initializes it, B small."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array | Raw] = {}
    for module in modules:
        inputs, outputs = sizes(module)
        r = (ranks or {}).get(module, RANK)
        bound = inputs**-0.5
        a = random.uniform(-bound, bound, (r, inputs))
        b = random.normal(0, 0.02, (outputs, r))
        tensors[f"{P}{module}.lora_A.weight"] = a.astype("float32")
        tensors[f"{P}{module}.lora_B.weight"] = b.astype("float32")
    return tensors


def plain() -> Adapter:
    return Adapter(config=base_config(), tensors=factors(module_names()))


UNTRIED = Selection(
    ignore=(
        "tokenizer-behaviour",
        "tokenizer-words",
        "tokenizer-words-trained",
        "tokenizer-versions",
    )
)
"""Without the rules that load tokenizers in a child process, which takes a second per folder."""


def report_on(
    adapter: Adapter, folder: Path, base: Path | None = None, *, tried: bool = False
) -> LintReport:
    """Save an adapter and lint it, with the tokenizer comparison only if ``tried`` is set."""
    opened = BaseFiles.open(base) if base else None
    chosen = Selection() if tried else UNTRIED
    return lint(AdapterFolder.open(adapter.save(folder)), opened, chosen)
