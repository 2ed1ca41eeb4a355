"""Time and memory to lint an adapter of Phi-3-mini's real size, compared with loading it in peft.

Usage: python benchmarks/lint.py [RANK ...]   (default: 16 and 64)

Each time is the median over whole processes. peft gets a base whose tensors are allocated but never
filled, so its time does not include reading a base.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 32, 3072, 8192, 32064
MODULE_SIZES = {
    "self_attn.qkv_proj": (HIDDEN, 3 * HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_up_proj": (HIDDEN, 2 * INTERMEDIATE),
    "mlp.down_proj": (INTERMEDIATE, HIDDEN),
}
RUNS = 5
LOAD_WITH_PEFT = f"""
import sys, time, warnings
warnings.filterwarnings("ignore")
started = time.perf_counter()
import torch
from peft import PeftModel
from transformers import Phi3Config, Phi3ForCausalLM
config = Phi3Config(hidden_size={HIDDEN}, intermediate_size={INTERMEDIATE},
                    num_hidden_layers={LAYERS}, num_attention_heads=32, num_key_value_heads=32,
                    vocab_size={VOCABULARY})
with torch.device("meta"):
    model = Phi3ForCausalLM(config).to(torch.bfloat16)
model = model.to_empty(device="cpu")
ready = time.perf_counter()
PeftModel.from_pretrained(model, sys.argv[1])
print(time.perf_counter() - ready)
"""


def write_adapter(folder: Path, rank: int) -> int:
    """Write an adapter with plausible trained values and return its weights' size in bytes."""
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(LAYERS):
        for name, (inputs, outputs) in MODULE_SIZES.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            a = random.uniform(-1, 1, (rank, inputs)) * inputs**-0.5
            b = random.normal(0, 0.01, (outputs, rank))
            tensors[f"{prefix}.lora_A.weight"] = a.astype("f4")
            tensors[f"{prefix}.lora_B.weight"] = b.astype("f4")
    weights = folder / "adapter_model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    from peft import LoraConfig

    targets = [name.rpartition(".")[2] for name in MODULE_SIZES]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    config.inference_mode = True
    config.save_pretrained(str(folder))
    return weights.stat().st_size


def measure(*command: str) -> tuple[float, float, str]:
    """Return the median seconds, the largest peak memory in MB, and the last run's output."""
    code = (
        "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:], capture_output=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
        "sys.stdout.write(r.stdout.decode()); sys.exit(r.returncode)"
    )
    seconds, peaks, output = [], [], ""
    for _ in range(RUNS):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True
        )
        seconds.append(time.perf_counter() - started)
        peak, _, output = done.stdout.partition("\n")
        peaks.append(int(peak) * 1024 / 1e6)
    return statistics.median(seconds), max(peaks), output


def main() -> None:
    """Measure each rank and print its figures."""
    lint = (sys.executable, "-c", "from phi3_lora_qa.cli import main; main()", "lint")
    for rank in map(int, sys.argv[1:] or ("16", "64")):
        with tempfile.TemporaryDirectory() as folder:
            size = write_adapter(Path(folder), rank)
            whole = measure(*lint, folder, "--format=json")
            headers = measure(*lint, folder, "--format=json", "--ignore=values")
            peft = measure(sys.executable, "-c", LOAD_WITH_PEFT, folder)
        print(f"r={rank}, {size / 1e6:.0f} MB")
        print(f"  lint                     {whole[0]:.2f} s, {whole[1]:.0f} MB")
        print(f"  lint --ignore values     {headers[0]:.2f} s, {headers[1]:.0f} MB")
        print(f"  PeftModel.from_pretrained {float(peft[2]):.2f} s of a {peft[0]:.2f} s process")
        print(f"  the whole process with peft takes {peft[0] / whole[0]:.0f} times as long as lint")


if __name__ == "__main__":
    main()
