"""Tests of the rules that compare sizes and deltas with the base's weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.adapter.adapters import report_on
from tests.adapter.healthy import HEALTHY
from tests.adapter.packing import pack
from tests.adapter.tiny_base import base_tensors, write_base


@pytest.mark.parametrize("variant", ["plain", "embeddings", "dora", "saved_head", "trained_tokens"])
def test_without_the_bases_weights_their_comparison_is_unchecked(
    variant: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").unlink()
    report = report_on(HEALTHY[variant](), tmp_path / "adapter", base)
    assert report.accepted
    left = [rule for rule in report.unchecked if rule.missing == ("base weights",)]
    assert len(left) == 7
    assert not any(rule in report.rules_run for rule in ("base-delta-size", "base-embedding-copy"))
    assert "base-sizes" in report.rules_run


def packed(base: Path, layout: str) -> Path:
    """Write the base's projections in the layout of a quantised model."""
    tensors: dict[str, Any] = {}
    for name, tensor in base_tensors().items():
        rows, columns = tensor.shape if tensor.ndim == 2 else (0, 0)
        stem = name.removesuffix("weight")
        if not name.endswith("proj.weight"):
            tensors[name] = tensor
        elif layout == "bnb":
            tensors[name] = ("U8", (tensor.size // 2, 1), bytes(tensor.size // 2))
            tensors[f"{name}.absmax"] = np.ones(rows, "f4")
        elif layout == "gptq":
            tensors[f"{stem}qweight"] = np.zeros((columns // 8, rows), "int32")
            tensors[f"{stem}scales"] = np.ones((1, rows), "float16")
        else:
            tensors[name] = ("F8_E4M3", tensor.shape, b"\x38" * tensor.size)
    (base / "model.safetensors").write_bytes(pack(tensors))
    return base


@pytest.mark.parametrize("layout", ["bnb", "gptq", "float8"])
@pytest.mark.parametrize("variant", ["plain", "dora", "embeddings", "saved_head"])
def test_the_sizes_of_a_quantised_base_come_from_its_config(
    layout: str, variant: str, tmp_path: Path
) -> None:
    base = packed(write_base(tmp_path / "base"), layout)
    report = report_on(HEALTHY[variant](), tmp_path / "adapter", base)
    assert report.accepted, report.findings
    compared = variant in ("embeddings", "saved_head")  # their tables are not quantised
    assert ("base-saved-module" in report.rules_run) is compared
    adapter = HEALTHY["plain"]()
    for name in adapter.names("lora_A.weight"):
        adapter.tensors[name] = np.concatenate([adapter.array(name)] * 2, axis=1)
    found = report_on(adapter, tmp_path / "wide", base).findings
    assert "base-sizes" in {f.rule for f in found}
