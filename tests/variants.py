"""Healthy adapters of every kind of LoRA that trains on a Phi-3, made by peft itself."""

import copy
import warnings
from pathlib import Path
from typing import Any

FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
VARIANTS: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "rank_pattern": {"rank_pattern": {"o_proj": 2, r"layers\.1\.mlp\..*": 6}},
    "alpha_pattern": {"alpha_pattern": {"down_proj": 32, "model.layers.0.self_attn.qkv_proj": 4}},
    "all_linear": {"target_modules": "all-linear"},
    "saved_head": {"modules_to_save": ["lm_head"]},
    "saved_norms": {"modules_to_save": ["norm", "embed_tokens"]},
    "embeddings": {"target_modules": [*FUSED, "embed_tokens"]},
    "head": {"target_modules": [*FUSED, "lm_head"]},
    "dora_everywhere": {"target_modules": [*FUSED, "embed_tokens", "lm_head"], "use_dora": True},
    "layers": {"layers_to_transform": [1]},
    "layers_pattern": {"layers_to_transform": [0], "layers_pattern": "layers"},
    "regex": {"target_modules": r".*layers\.\d+\.(self_attn\.qkv|mlp\.down)_proj"},
    "look_ahead": {"target_modules": r"^(model(?=\.).*\.(qkv_proj|o_proj|down_proj))$"},
    "back_reference": {"target_modules": r"(m)odel\.layers\.\d+\.(self_attn|\1lp)\..*_proj"},
    "back_reference_for_ranks": {"rank_pattern": {r"(m)odel\.layers\.\d+\.\1lp\..*_proj": 2}},
    "parameters_alone": {"target_modules": None, "target_parameters": ["mlp.down_proj.weight"]},
    "excluded": {"exclude_modules": ["o_proj"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "eva_label": {"init_lora_weights": "eva"},
    "bias_all": {"bias": "all"},
    "no_task": {"task_type": None},
    "token_rows": {"trainable_token_indices": [3, 5]},
    "token_rows_of_both": {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3]}},
    "parameters": {
        "target_modules": ["qkv_proj"],
        "target_parameters": ["mlp.down_proj.weight", "mlp.gate_up_proj.weight"],
    },
    "block_diagonal": {
        "use_bdlora": {
            "target_modules_bd_a": ["o_proj", "down_proj"],
            "target_modules_bd_b": ["qkv_proj", "gate_up_proj"],
            "nblocks": 2,
        }
    },
    "velora": {"velora_config": {"num_groups": 4}},
    "velora_uneven": {"velora_config": {"num_groups": 5}},
    "monteclora": {"monteclora_config": {"num_samples": 4}},
    "tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}


def train(model: Any, folder: Path, **options: Any) -> Any:
    """Train a copy of a model for two steps with peft's own code, save it, and return it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.config import BdLoraConfig, MontecloraConfig, VeloraConfig

    kinds = {
        "use_bdlora": BdLoraConfig,
        "velora_config": VeloraConfig,
        "monteclora_config": MontecloraConfig,
    }
    options = {n: kinds[n](**v) if n in kinds else v for n, v in options.items()}
    torch.manual_seed(1)
    config = {"r": 4, "lora_alpha": 8, "target_modules": FUSED, "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(copy.deepcopy(model), LoraConfig(**{**config, **options}))
        optimizer = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), lr=1e-2)
        tokens = torch.randint(3, 96, (4, 12))
        for _ in range(2):
            tuned(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        tuned.save_pretrained(str(folder))
    return tuned.eval()
