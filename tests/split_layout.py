"""The same model and adapter in the other layout: with Llama's split projections."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from phi3_lora_qa.adapter.architecture import FUSED_PARTS
from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS

DeltaByModule = Mapping[str, NDArray[np.float64]]


def split_rows(name: str, fused: Tensor, config: Mapping[str, int]) -> dict[str, Tensor]:
    """Cut a fused projection's rows into those of its parts, by the parts' tensor names."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    head = config.get("head_dim") or hidden // heads
    keys = (config.get("num_key_value_heads") or heads) * head
    middle = config["intermediate_size"]
    rows = {"qkv_proj": (heads * head, keys, keys), "gate_up_proj": (middle, middle)}
    whole = next((leaf for leaf in FUSED_PARTS if f".{leaf}." in name), None)
    if whole is None:
        return {name: fused}
    pieces = zip(FUSED_PARTS[whole], fused.split(rows[whole]), strict=True)
    return {name.replace(whole, part): piece.contiguous() for part, piece in pieces}


def write_split_base(base: Path, folder: Path, model_type: str) -> Path:
    """Write a Phi-3's weights, tokenizer and settings as a Llama or Mistral; return the folder."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    name = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}[model_type]
    config |= {"model_type": model_type, "architectures": [name]}
    if model_type == "llama":  # it has no window
        del config["sliding_window"]
    del config["original_max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    parts = [split_rows(key, tensor, config) for key, tensor in tensors.items()]
    whole = {key: tensor for found in parts for key, tensor in found.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_split_adapter(adapter: Path, base: Path, folder: Path) -> Path:
    """Write a fused adapter as one of the split projections: A is shared, B is cut; return it."""
    shutil.copytree(adapter, folder)
    (folder / "lora_qa_manifest.json").unlink(missing_ok=True)
    (folder / "README.md").unlink(missing_ok=True)
    sizes = json.loads((base / "config.json").read_text())
    found: dict[str, Tensor] = {}
    for key, tensor in load_file(folder / WEIGHTS).items():
        whole = next((leaf for leaf in FUSED_PARTS if f".{leaf}." in key), None)
        if whole and key.endswith("lora_A.weight"):
            found |= {key.replace(whole, part): tensor.clone() for part in FUSED_PARTS[whole]}
        else:
            found |= split_rows(key, tensor, sizes)
    save_file(found, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text())
    targets = config["target_modules"]
    config["target_modules"] = [p for t in targets for p in FUSED_PARTS.get(t, (t,))]
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def fused_deltas(adapter: Path, scaling: float) -> DeltaByModule:
    """Return each delta in float64, those of split projections stacked under the fused name."""
    tensors = {key: t.double().numpy() for key, t in load_file(adapter / WEIGHTS).items()}
    names = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith("lora_A.weight")]
    deltas = {
        name: scaling * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        for name in names
    }
    for whole, parts in FUSED_PARTS.items():
        for name in [name for name in deltas if name.endswith(f".{parts[0]}")]:
            parent = name.removesuffix(parts[0])
            stacked = [deltas.pop(parent + part) for part in parts]
            deltas[parent + whole] = np.concatenate(stacked)
    return deltas
