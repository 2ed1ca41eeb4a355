"""One adapter for the bundled base, as other tools write it."""

import json
from pathlib import Path

import numpy as np

from tests.adapter.packing import Array, pack

HIDDEN, MIDDLE = 96, 256
MODULES = {"self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.down_proj": (MIDDLE, HIDDEN)}
"""(inputs, outputs) of the bundled base's modules."""


def factors(layer: int) -> dict[str, tuple[Array, Array]]:
    random = np.random.default_rng(layer)
    return {
        f"model.layers.{layer}.{name}": (
            random.uniform(-0.1, 0.1, (4, inputs)).astype("float32"),
            random.normal(0, 0.02, (outputs, 4)).astype("float32"),
        )
        for name, (inputs, outputs) in MODULES.items()
    }


ALL = {name: pair for layer in range(2) for name, pair in factors(layer).items()}


def mlx(folder: Path) -> Path:
    """Write the adapter as mlx-lm writes it: a folder."""
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    config = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {f"{n}.lora_a": np.ascontiguousarray(a.T) for n, (a, _) in ALL.items()}
    tensors |= {f"{n}.lora_b": np.ascontiguousarray(b.T) for n, (_, b) in ALL.items()}
    (folder / "adapters.safetensors").write_bytes(pack(tensors))
    return folder


def kohya(folder: Path) -> Path:
    """Write the adapter as kohya's scripts write it: a file."""
    tensors: dict[str, Array] = {}
    for name, (a, b) in ALL.items():
        key = f"lora_{name.replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b}
        tensors[f"{key}.alpha"] = np.array(8.0, "float32")
    (folder / "kohya.safetensors").write_bytes(pack(tensors))
    return folder / "kohya.safetensors"


def torchtune(folder: Path) -> Path:
    """Write the adapter as torchtune writes it by default: a file."""
    names = {"self_attn.o_proj": "attn.output_proj", "mlp.down_proj": "mlp.w2", "model.": ""}
    tensors: dict[str, Array] = {}
    for name, (a, b) in ALL.items():
        key = name
        for own, other in names.items():
            key = key.replace(own, other)
        tensors |= {f"{key}.lora_a.weight": a, f"{key}.lora_b.weight": b}
    (folder / "adapter_model.safetensors").write_bytes(pack(tensors))
    return folder / "adapter_model.safetensors"


def loralib(folder: Path) -> Path:
    """Write the adapter as loralib's `lora_state_dict` gives it: a file."""
    tensors = {f"{n}.lora_{x}": pair[i] for n, pair in ALL.items() for i, x in enumerate("AB")}
    (folder / "lora.safetensors").write_bytes(pack(tensors))
    return folder / "lora.safetensors"
