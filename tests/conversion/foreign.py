"""Adapters of the tiny base as other programs write them, and what they compute."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.models.registry import bundled
from tests.split_twin import ROWS

BASE = BaseFiles.open(bundled("tiny/base"))
LINEAR = tuple(name for name in BASE.modules if name.endswith("_proj"))
SPLIT = tuple(
    name.replace(fused, part)
    for name in LINEAR
    for fused, rows in ROWS.items()
    if name.endswith(fused)
    for part in rows
)
Tensors = dict[str, torch.Tensor]


def sizes(name: str) -> tuple[int, int]:
    """Return (inputs, outputs) of a module of the tiny base, or of a part of a fused one."""
    parent, _, leaf = name.rpartition(".")
    fused = next((fused for fused, rows in ROWS.items() if leaf in rows), leaf)
    at = BASE.modules[f"{parent}.{fused}"]
    assert at.inputs
    assert at.outputs
    return at.inputs, ROWS[fused][leaf] if fused != leaf else at.outputs


def factors(name: str, rank: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return A (rank, inputs) and B (outputs, rank), different for each module."""
    generator = torch.Generator().manual_seed(crc32(f"{name} {rank}".encode()))
    inputs, outputs = sizes(name)
    a = torch.randn(rank, inputs, generator=generator) / 10
    b = torch.randn(outputs, rank, generator=generator) / 20
    return a.to(dtype), b.to(dtype)


def mlx_tensors(names: tuple[str, ...] = LINEAR, rank: int = 4, **options: Any) -> Tensors:
    """Return the tensors of an mlx-lm adapter."""
    found: Tensors = {}
    for name in names:
        a, b = factors(name, rank, **options)
        found[f"{name}.lora_a"], found[f"{name}.lora_b"] = a.T.contiguous(), b.T.contiguous()
    return found


def mlx_folder(
    folder: Path, tensors: Tensors | None = None, /, parameters: Any = None, **config: Any
) -> Path:
    """Write an mlx-lm adapter."""
    folder.mkdir(exist_ok=True)
    chosen = {"rank": 4, "scale": 20.0, "dropout": 0.0} if parameters is None else parameters
    content = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": chosen} | config
    (folder / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    save_file(mlx_tensors() if tensors is None else tensors, folder / "adapters.safetensors")
    return folder


def kohya_tensors(
    names: tuple[str, ...] = LINEAR,
    alpha: float | None = 8.0,
    rank: Callable[[str], int] = lambda _: 4,
    prefix: str = "lora_",
) -> Tensors:
    """Return the tensors of a file in kohya's format."""
    found: Tensors = {}
    for name in names:
        a, b = factors(name, rank(name))
        key = prefix + name.replace(".", "_")
        found |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b}
        if alpha is not None:
            found[f"{key}.alpha"] = torch.tensor(alpha)
    return found


def delta(a: Any, b: Any, scaling: float) -> Any:
    """Return scaling · B·A in float64, with one order of summation; bitwise comparable."""
    a, b = (np.asarray(factor.double()) for factor in (a, b))
    total = np.zeros((b.shape[0], a.shape[1]))
    for p in range(a.shape[0]):
        total = total + np.outer(b[:, p], a[p])
    return scaling * total


def expected_deltas(scalings: Mapping[str, tuple[int, float]], names: tuple[str, ...]) -> Any:
    """Return the delta of each module of the tiny base, from (rank, scaling) of each name."""
    found: dict[str, Any] = {}
    for name in names:
        rank, scaling = scalings[name]
        parent, _, leaf = name.rpartition(".")
        part = delta(*factors(name, rank), scaling)
        fused = next((fused for fused, rows in ROWS.items() if leaf in rows), None)
        if fused is None:
            found[name] = part
            continue
        whole = f"{parent}.{fused}"
        start = 0
        for other, rows in ROWS[fused].items():
            if other == leaf:
                total = found.setdefault(
                    whole, np.zeros((sum(ROWS[fused].values()), sizes(name)[0]))
                )
                total[start : start + rows] = part
            start += rows
    return found


def written_deltas(folder: Path) -> Any:
    """Return the delta of each module of a PEFT adapter, by its config and PEFT's own patterns."""
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    config = LoraConfig.from_pretrained(str(folder))
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key in tensors:
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rank, alpha = (
            table.get(get_pattern_key(table.keys(), name), default)
            for table, default in (
                (config.rank_pattern, config.r),
                (config.alpha_pattern, config.lora_alpha),
            )
        )
        a, b = tensors[key], tensors[key.replace("lora_A", "lora_B")]
        assert a.shape[0] == rank
        found[name] = delta(a, b, alpha / rank)
    return found


def assert_same_deltas(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that two adapters change the same modules by bitwise the same amounts."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name
