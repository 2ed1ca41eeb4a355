"""Tests of the rule on quantised bases."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.finding import Finding, Severity
from tests.adapter.base_variants import CONFIG, copy_base, edit_json, findings_on
from tests.adapter.packing import pack
from tests.adapter.tiny_base import base_tensors, write_base


def quantised(base: Path, *uses: BaseUse) -> list[Finding]:
    return [found for found in findings_on(base, *uses) if found.rule == "basemodel-quantised"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ (4 bits)"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "AWQ (4 bits)"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes (4 bits)"),
        ({"load_in_8bit": True}, "bitsandbytes (8 bits)"),
        ({"quant_method": "fp8"}, "float8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "hqq"}, "HQQ"),
        ({"quant_method": "spqr"}, "spqr"),
        ({"group_size": 64, "bits": 4, "mode": "affine"}, "MLX (4 bits)"),
    ],
)
def test_the_method_that_config_json_names_is_named(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    base = edit_json(copy_base(tmp_path / "base"), CONFIG, quantization_config=settings)
    (found,) = quantised(base)
    assert found.message.startswith(f"the base is quantised with {words}; ")
    assert found.where == "config.json: quantization_config"
    assert "pass the base from which it was quantised" in found.fix


def test_it_stops_only_a_run_that_loads_the_model(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4}
    base = edit_json(copy_base(tmp_path / "base"), CONFIG, quantization_config=settings)
    for uses, severity in (
        ((), Severity.WARNING),
        ((BaseUse.ANSWERS,), Severity.WARNING),
        ((BaseUse.LOADING,), Severity.ERROR),
    ):
        assert [found.severity for found in quantised(base, *uses)] == [severity]


def as_gptq(name: str, tensor: Any) -> dict[str, Any]:
    stem = name.removesuffix("weight")
    return {
        f"{stem}qweight": np.zeros((tensor.shape[1] // 8, tensor.shape[0]), "int32"),
        f"{stem}g_idx": np.zeros(tensor.shape[1], "int32"),
    }


def as_bnb(name: str, tensor: Any) -> dict[str, Any]:
    return {
        name: ("U8", (tensor.size // 2, 1), bytes(tensor.size // 2)),
        f"{name}.absmax": np.ones(tensor.shape[0], "f4"),
    }


def as_packed(name: str, tensor: Any) -> dict[str, Any]:
    return {f"{name}_packed": np.zeros((tensor.shape[0], tensor.shape[1] // 8), "int32")}


def as_float8(name: str, tensor: Any) -> dict[str, Any]:
    return {name: ("F8_E4M3", tensor.shape, b"\x38" * tensor.size)}


def as_integers(name: str, tensor: Any) -> dict[str, Any]:
    return {name: ("I8", tensor.shape, bytes(tensor.size))}


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (as_gptq, "GPTQ"),
        (as_bnb, "bitsandbytes"),
        (as_packed, "compressed-tensors"),
        (as_float8, "float8"),
        (as_integers, "an unknown method, into integers"),
    ],
)
def test_without_settings_the_tensors_show_the_method(
    layout: Any, words: str, tmp_path: Path
) -> None:
    tensors: dict[str, Any] = {}
    for name, tensor in base_tensors().items():
        tensors |= layout(name, tensor) if name.endswith("proj.weight") else {name: tensor}
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").write_bytes(pack(tensors))
    (found,) = quantised(base)
    assert found.message.startswith(f"the base is quantised with {words};")


def test_a_base_with_its_own_weights_is_not_quantised(tmp_path: Path) -> None:
    assert not quantised(write_base(tmp_path / "base"), *BaseUse)
    empty = edit_json(copy_base(tmp_path / "b"), CONFIG, quantization_config=None)
    assert not quantised(empty, *BaseUse)
