"""Builders of a tiny Phi-3 base with numpy only: sizes, tensors, tokenizer and files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.adapter.packing import Array, pack

HIDDEN, MIDDLE, VOCABULARY, LAYERS = 32, 48, 96, 2
SIZES = {  # (inputs, outputs): 4 heads of 8, 2 of them shared by keys and values
    "self_attn.qkv_proj": (HIDDEN, HIDDEN + 2 * 2 * 8),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_up_proj": (HIDDEN, 2 * MIDDLE),
    "mlp.down_proj": (MIDDLE, HIDDEN),
}
LEAVES = tuple(name.rpartition(".")[2] for name in SIZES)

MODEL_CONFIG = {
    "model_type": "phi3", "hidden_size": HIDDEN, "intermediate_size": MIDDLE,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY, "tie_word_embeddings": False,
}  # fmt: skip

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

WORDS = VOCABULARY - 6
"""Words of the tokenizer; two added tokens follow, and four rows are unused, as in Phi-3."""


def module_names(leaves: tuple[str, ...] = LEAVES, layers: tuple[int, ...] = (0, 1)) -> list[str]:
    return [
        f"model.layers.{layer}.{name}"
        for layer in layers
        for name in SIZES
        if name.rpartition(".")[2] in leaves
    ]


def sizes(module: str) -> tuple[int, int]:
    """Return (inputs, outputs) of a linear module of the tiny Phi-3."""
    if module == "lm_head":
        return HIDDEN, VOCABULARY
    return next(size for name, size in SIZES.items() if module.endswith(name))


def base_tensors() -> dict[str, Array]:
    random = np.random.default_rng(7)
    tensors = {"model.embed_tokens.weight": random.normal(0, 0.1, (VOCABULARY, HIDDEN))}
    for layer in range(LAYERS):
        for name, (inputs, outputs) in SIZES.items():
            weight = random.normal(0, 0.1, (outputs, inputs))
            tensors[f"model.layers.{layer}.{name}.weight"] = weight
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = np.ones(HIDDEN)
    tensors["model.norm.weight"] = np.ones(HIDDEN)
    tensors["lm_head.weight"] = random.normal(0, 0.1, (VOCABULARY, HIDDEN))
    return {name: tensor.astype("float32") for name, tensor in tensors.items()}


def added_token(number: int, content: str, **flags: bool) -> dict[str, Any]:
    """Return an added token in the format of tokenizers."""
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {
        "id": number,
        "content": content,
        **dict.fromkeys(names, False),
        "special": True,
    } | flags


def tokenizer_files(
    *, template: str = TEMPLATE, pad: str = "<|endoftext|>", extra: Mapping[str, int] | None = None
) -> dict[str, bytes]:
    words = {f"word{number}": number for number in range(WORDS)}
    added = {"<|endoftext|>": WORDS, "<|end|>": WORDS + 1} | dict(extra or {})
    tokenizer = {
        "version": "1.0",
        "model": {"type": "BPE", "vocab": words, "merges": []},
        "added_tokens": [added_token(number, token) for token, number in added.items()],
    }
    settings = {
        "pad_token": pad,
        "eos_token": "<|end|>",
        "chat_template": template,
        "tokenizer_class": "TokenizersBackend",
    }
    return {
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


def write_base(folder: Path, **changes: Any) -> Path:
    """Write the base for which `adapters.py` builds adapters."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL_CONFIG | changes))
    (folder / "model.safetensors").write_bytes(pack(base_tensors()))
    for name, content in tokenizer_files().items():
        (folder / name).write_bytes(content)
    return folder
