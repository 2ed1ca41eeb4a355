"""One adapter as other tools write it: other fields of the config, and other files beside it."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from phi3_lora_qa.adapter.folder import CONFIG
from phi3_lora_qa.models.paths import bundled
from tests.split_layout import write_split_adapter

TINY = bundled("tiny")
TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
MODULES = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]
UNSLOTH = {
    "base_model_class": "MistralForCausalLM",
    "parent_library": "transformers.models.mistral.modeling_mistral",
    "unsloth_fixed": True,
}
OLDEST = (
    "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "lora_alpha",
    "lora_dropout", "modules_to_save", "peft_type", "r", "target_modules", "task_type",
)  # fmt: skip
"""The fields of peft 0.2, which later versions kept."""

WITHOUT_PATTERNS = (*OLDEST, "init_lora_weights", "layers_pattern", "layers_to_transform",
                    "revision")  # fmt: skip
WITH_PATTERNS = (*WITHOUT_PATTERNS, "alpha_pattern", "auto_mapping", "loftq_config",
                 "megatron_config", "megatron_core", "rank_pattern")  # fmt: skip
LOG = {"global_step": 2, "log_history": [{"step": 1, "loss": 2.0, "grad_norm": 1.0},
                                         {"step": 2, "loss": 1.0, "grad_norm": 0.5}]}  # fmt: skip
GRPO_LOG = {"global_step": 1, "log_history": [{"step": 1, "loss": 0.0, "reward": 1.0, "kl": 0.1}]}


def _write(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def _config(folder: Path, keep: tuple[str, ...] = (), **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    kept = {name: config[name] for name in keep or config}
    _write(folder, {CONFIG: kept | fields})


def _old_tokenizer(folder: Path, pad: str, **fields: Any) -> None:
    """Write the tokenizer's settings as transformers 4 does, with the template among them."""
    tokens = json.loads((TINY / "base/tokenizer.json").read_text())["added_tokens"]
    decoder = {str(token.pop("id")): token for token in tokens}
    settings = {
        "added_tokens_decoder": decoder, "bos_token": "<s>", "eos_token": "<|endoftext|>",
        "chat_template": (TINY / "base/chat_template.jinja").read_text(), "pad_token": pad,
        "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 4096, "padding_side": "right", "extra_special_tokens": {},
    }  # fmt: skip
    (folder / "chat_template.jinja").unlink()
    special = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": pad}
    _write(folder, {"tokenizer_config.json": settings | fields, "special_tokens_map.json": special})


def unsloth(folder: Path) -> None:
    """Unsloth's files and fields; the layout is split by `write_unsloth`."""
    name = "unsloth/phi-3-mini-4k-instruct-bnb-4bit"
    _config(folder, base_model_name_or_path=name, auto_mapping=UNSLOTH, lora_dropout=0)
    _old_tokenizer(folder, "<|placeholder6|>")
    _write(folder, {"README.md": f"---\nbase_model: {name}\ntags:\n- unsloth\n---\n"})


def axolotl(folder: Path) -> None:
    _config(folder, fan_in_fan_out=None)
    _old_tokenizer(folder, "<|endoftext|>")
    shutil.copy(TINY / "base/config.json", folder)
    _write(folder, {"debug.log": "x\n", "checkpoint-2/trainer_state.json": LOG})


def llama_factory(folder: Path) -> None:
    _old_tokenizer(folder, "<|endoftext|>", split_special_tokens=False)
    results = {"epoch": 1.0, "train_loss": 0.3}
    _write(folder, {"all_results.json": results, "trainer_state.json": LOG,
                    "training_args.bin": "x", "llamaboard_config.yaml": "a: b\n"})  # fmt: skip


def ms_swift(folder: Path) -> None:
    pattern = r"^(model(?=\.).*\.(qkv_proj|o_proj|gate_up_proj|down_proj))$"
    _config(folder, target_modules=pattern)
    _write(folder, {"additional_config.json": {"lora_dtype": None, "lorap_lr_ratio": None},
                    "args.json": {"model_type": "phi3"}, "optimizer.pt": "x"})  # fmt: skip


def ms_swift_2(folder: Path) -> None:
    _config(folder, swift_type="LORA", lora_dtype="AUTO", lorap_lr_ratio=None, lorap_emb_lr=1e-6)
    generation = {"eos_token_id": [741, 742, 748], "pad_token_id": 741, "max_new_tokens": 2048}
    _write(folder, {"generation_config.json": generation, "sft_args.json": {"seed": 42}})


def nemo(folder: Path) -> None:
    names = [f"model.layers.{layer}.{module}" for layer in range(4) for module in MODULES]
    _config(folder, ("base_model_name_or_path", "bias", "lora_alpha", "lora_dropout", "peft_type",
                     "r", "task_type", "use_dora"), target_modules=names)  # fmt: skip
    _write(folder, {"automodel_peft_config.json": {"target_modules": ["*_proj"], "dim": 8}})


def verl(folder: Path) -> None:
    _config(folder, runtime_config={"ephemeral_gpu_offload": False}, inference_mode=False)
    _write(folder, {"lora_train_meta.json": {"r": 8, "lora_alpha": 16, "task_type": "CAUSAL_LM"}})


def trl_checkpoint(folder: Path) -> None:
    leftovers = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")
    _write(folder, dict.fromkeys(leftovers, "x") | {"trainer_state.json": LOG})


def trl_grpo(folder: Path) -> None:
    _write(folder, {"trainer_state.json": GRPO_LOG, "training_args.bin": "x"})


def peft_0_2(folder: Path) -> None:
    _config(folder, OLDEST, enable_lora=None, merge_weights=False)


def peft_0_3(folder: Path) -> None:
    _config(folder, WITHOUT_PATTERNS)


def peft_0_7(folder: Path) -> None:
    _config(folder, WITH_PATTERNS)


def minimal(folder: Path) -> None:
    """Only what peft cannot do without, as hand-written exporters have it."""
    _config(folder, ("base_model_name_or_path", "lora_alpha", "peft_type", "r", "target_modules",
                     "task_type"))  # fmt: skip


SHAPES: Mapping[str, Callable[[Path], None]] = {
    shape.__name__: shape
    for shape in (axolotl, llama_factory, ms_swift, ms_swift_2, nemo, verl, trl_checkpoint,
                  trl_grpo, peft_0_2, peft_0_3, peft_0_7, minimal)
}  # fmt: skip


def write_shape(name: str, adapter: Path, folder: Path) -> Path:
    """Write the adapter as a tool would have; return the folder."""
    write_plain(adapter, folder)
    SHAPES[name](folder)
    return folder


def write_unsloth(adapter: Path, folder: Path) -> Path:
    """Write the adapter as unsloth would have, for a base in Llama's layout; return the folder."""
    write_split_adapter(adapter, TINY / "base", folder)
    unsloth(folder)
    return folder


def write_plain(adapter: Path, folder: Path) -> Path:
    """Write the adapter as peft does, with its tokenizer; return the folder."""
    shutil.copytree(adapter, folder)
    for name in ("README.md", "lora_qa_manifest.json"):
        (folder / name).unlink(missing_ok=True)
    return folder
