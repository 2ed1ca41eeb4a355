"""What the math stage costs on an adapter and a base of Phi-3-mini's size.

Usage: python benchmarks/math_stage.py

A base of 3.8 billion drawn bfloat16 weights is written as shards into a temporary folder (7.6 GB),
and an adapter of rank 16 on its 128 modules. The figure is one whole process of pytest.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Phi3Config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lint import HIDDEN, INTERMEDIATE, LAYERS, MODULE_SIZES, VOCABULARY, write_adapter
from benchmarks.memory import peak_mib

LAYERS_A_SHARD = 4


def write_base(folder: Path) -> int:
    """Write a base with real shapes and drawn weights; return its size in bytes."""
    generator = torch.Generator().manual_seed(0)
    config = Phi3Config(
        hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=LAYERS,
        num_attention_heads=32, num_key_value_heads=32, vocab_size=VOCABULARY,
    )  # fmt: skip
    config.save_pretrained(str(folder))

    def drawn(*shape: int) -> torch.Tensor:
        values = torch.empty(shape, dtype=torch.bfloat16)
        return values.normal_(0, 0.02, generator=generator)

    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    total = 0

    def write(number: int) -> None:
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for layer in range(LAYERS):
        for name, (inputs, outputs) in MODULE_SIZES.items():
            shard[f"model.layers.{layer}.{name}.weight"] = drawn(outputs, inputs)
        for name in ("input_layernorm", "post_attention_layernorm"):
            ones = torch.ones(HIDDEN, dtype=torch.bfloat16)
            shard[f"model.layers.{layer}.{name}.weight"] = ones
        total += sum(tensor.nbytes for tensor in shard.values())
        if (layer + 1) % LAYERS_A_SHARD == 0:
            write(layer)
    shard |= {
        "model.embed_tokens.weight": drawn(VOCABULARY, HIDDEN),
        "lm_head.weight": drawn(VOCABULARY, HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16),
    }
    write(LAYERS)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        base, adapter, report = (Path(place, name) for name in ("base", "adapter", "report"))
        base.mkdir()
        adapter.mkdir()
        size = write_base(base)
        write_adapter(adapter, rank=16)
        print(f"base of {size / 1e9:.1f} GB, adapter of rank 16 on 128 modules")
        command = (sys.executable, "-m", "pytest", "-q", "--phi3-only", "--phi3-stage=math",
                   f"--phi3-adapter={adapter}", f"--phi3-base={base}",
                   f"--phi3-report={report}")  # fmt: skip
        peak = peak_mib(*command)
        record = json.loads((report / "record.json").read_text())
        print(f"  {record['verdict']}, {record['seconds']:.1f} s, peak {peak:.0f} MiB")
        for timing in record["timings"]:
            print(f"  {timing['phase']}: {timing['seconds']:.1f} s")
        for check in record["checks"]:
            print(f"  {check['id']}: {check['outcome']}, {check['message']}")


if __name__ == "__main__":
    main()
