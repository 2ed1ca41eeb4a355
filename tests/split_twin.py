"""The tiny base with split projections, as a Llama, and adapters that PEFT saves for it."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import bundled, resolve_base

ALL_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ROWS = {
    "qkv_proj": {"q_proj": 96, "k_proj": 48, "v_proj": 48},
    "gate_up_proj": {"gate_proj": 256, "up_proj": 256},
}
"""The rows of each part of the tiny base's fused projections."""

IDS = torch.arange(1, 60)[None]


def tiny_model() -> Any:
    """Return the tiny base in float32."""
    return load_base(resolve_base("tiny")).model.float().eval()


def logits(model: Any) -> torch.Tensor:
    """Return the logits of one row of tokens."""
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


@cache
def _split_weights() -> Mapping[str, torch.Tensor]:
    weights = {}
    for name, tensor in tiny_model().state_dict().items():
        fused = next((fused for fused in ROWS if f".{fused}." in name), None)
        if fused is None:
            weights[name] = tensor
            continue
        for leaf, piece in zip(ROWS[fused], tensor.split([*ROWS[fused].values()]), strict=True):
            weights[name.replace(fused, leaf)] = piece
    return weights


def split_twin() -> Any:
    """Return the tiny base as a LlamaForCausalLM in float32, with the same arithmetic."""
    from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

    phi3 = AutoConfig.from_pretrained(bundled("tiny/base"))
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings",
        "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    llama = LlamaForCausalLM(LlamaConfig(**{name: getattr(phi3, name) for name in names}))
    llama.load_state_dict(_split_weights())
    return llama.float().eval()


def split_adapter(folder: Path, targets: Sequence[str] = ALL_PARTS, **changes: Any) -> Any:
    """Save an adapter of the split twin with PEFT, and return the PEFT model."""
    settings: Mapping[str, Any] = {"r": 4, "lora_alpha": 8, **changes}
    config = LoraConfig(target_modules=list(targets), task_type="CAUSAL_LM", **settings)
    model = get_peft_model(split_twin(), config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            size = 0.1 if "lora_A" in name else 0.05
            parameter.data = torch.randn(parameter.shape, generator=generator) * size
    model.save_pretrained(str(folder))
    return model
