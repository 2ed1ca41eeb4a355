"""Builds small adapters for other bases, as people publish them."""

from pathlib import Path
from typing import Any

import numpy as np

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.finding import Finding, Severity
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, lint
from tests.adapter.adapters import RANK, UNTRIED, Adapter, P, base_config
from tests.adapter.packing import Array, Raw

SPLIT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
FUSED = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def layers(*names: str, prefix: str = "model.layers") -> list[str]:
    return [f"{prefix}.{layer}.{name}" for layer in (0, 1) for name in names]


def published(
    base: str | None,
    modules: list[str],
    sizes: dict[str, tuple[int, int]] | None = None,
    **config: Any,
) -> Adapter:
    """Return an adapter for these modules; ``sizes`` are (inputs, outputs) by the last name."""
    random = np.random.default_rng(5)
    tensors: dict[str, Array | Raw] = {}
    for module in modules:
        inputs, outputs = (sizes or {}).get(module.rpartition(".")[2], (16, 16))
        a = random.uniform(-0.2, 0.2, (RANK, inputs)).astype("float32")
        b = random.normal(0, 0.02, (outputs, RANK)).astype("float32")
        tensors |= {f"{P}{module}.lora_A.weight": a, f"{P}{module}.lora_B.weight": b}
    targets = sorted({module.rpartition(".")[2] for module in modules})
    own = {"base_model_name_or_path": base, "target_modules": targets}
    return Adapter(config=base_config() | own | config, tensors=tensors)


def lint_folder(folder: Path, base: Path | None = None, *, any_base: bool = False) -> LintReport:
    opened = BaseFiles.open(base) if base else None
    return lint(AdapterFolder.open(folder), opened, UNTRIED, any_base=any_base)


def errors(report: LintReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.severity is Severity.ERROR]


def only_error(report: LintReport) -> Finding:
    (finding,) = errors(report)
    return finding
