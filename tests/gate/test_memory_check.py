"""A base that cannot fit is refused before anything is loaded, with what would help."""

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from phi3_lora_qa.errors import MachineError
from phi3_lora_qa.gate import memory_check
from phi3_lora_qa.gate.gate_steps import plan_gate
from phi3_lora_qa.gate.memory_check import as_gigabytes, needed_bytes, require_memory
from phi3_lora_qa.gate.prepare import AdapterJob, prepare
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.settings import GateSettings
from tests.gate.builders import make_settings


def huge_base(folder: Path, copies: int) -> Path:
    """Write the tiny base with a file of large tables; it is sparse and takes no space."""
    shutil.copytree(bundled("tiny") / "base", folder)
    file = folder / "model.safetensors"
    length = struct.unpack("<Q", file.read_bytes()[:8])[0]
    header = json.loads(file.read_bytes()[8 : 8 + length])
    at = max(entry["data_offsets"][1] for name, entry in header.items() if name[0] != "_")
    size = 4 << 28
    for number in range(copies):
        offsets = [at, at := at + size]
        table = {"dtype": "F32", "shape": [1 << 18, 1 << 10], "data_offsets": offsets}
        header[f"model.table_{number}.weight"] = table
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + at)
    return folder


def job_of(settings: GateSettings) -> AdapterJob:
    (job,) = prepare(settings)
    return job


def test_a_huge_base_is_refused_with_its_sizes_and_nothing_is_loaded(
    good_adapter: Path, tmp_path: Path
) -> None:
    base = huge_base(tmp_path / "base", 900)
    settings = make_settings(good_adapter, tmp_path, base=str(base), device="cpu")
    words = (
        r"does not fit into the memory: the stages checkpoint, quality, export need at least "
        r"\d+\.\d GB \(\d+\.\d GB of weights, .* and this machine has \d+\.\d GB free; free some, "
        r"or use --phi3-stage static --phi3-stage math, which load no model"
    )
    with pytest.raises(MachineError, match=words):
        plan_gate(settings)
    plan_gate(replace(settings, stage=("static", "math")))


def test_the_options_with_which_it_fits_are_named(
    good_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(good_adapter, tmp_path, device="cpu", dtype="float32")
    job = job_of(settings)
    need = needed_bytes(job, settings, "none")
    low = needed_bytes(job, replace(settings, dtype="bfloat16"), "none")
    small = needed_bytes(job, settings, "nf4")
    assert small < need > low
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: need - 1)
    with pytest.raises(MachineError) as caught:
        require_memory([job], settings)
    assert f"use --phi3-dtype bfloat16 (needs {as_gigabytes(low)})" in str(caught.value)
    stages = "--phi3-stage static --phi3-stage math --phi3-stage quality"
    assert f"--phi3-quantization nf4 {stages} (needs {as_gigabytes(small)})" in str(caught.value)
    require_memory([job], replace(settings, dtype="bfloat16"))
    with pytest.raises(MachineError, match=f"--phi3-quantization nf4 {stages}"):
        require_memory([job], replace(settings, quantization="nf4"))
    only = replace(settings, quantization="nf4", stage=("static", "math", "quality"))
    require_memory([job], only)


def test_on_a_gpu_the_cpu_and_all_gpus_may_help(
    good_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(good_adapter, tmp_path, dtype="bfloat16")
    settings = replace(settings, device="cuda:1")
    job = job_of(replace(settings, device="cpu"))
    need = needed_bytes(job, settings, "none")
    free = {"cuda:1": 1000, "cuda": need, "cpu": need}
    monkeypatch.setattr(memory_check, "free_bytes", free.get)
    with pytest.raises(MachineError) as caught:
        require_memory([job], settings)
    assert "the device cuda:1 has 0.0 MB free" in str(caught.value)
    for option in ("--phi3-device cuda (needs", "--phi3-device cpu --phi3-dtype bfloat16 (needs"):
        assert option in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": ("static", "math")},
        {"stage": ("quality",), "backend": "openai:http://localhost:8000/v1"},
    ],
)
def test_what_loads_no_model_needs_no_memory(
    changes: dict[str, object],
    good_adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: 0)
    settings = make_settings(good_adapter, tmp_path, **changes)
    require_memory([job_of(settings)], settings)


def test_an_unknown_size_of_the_memory_refuses_nothing(
    good_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: None)
    settings = make_settings(good_adapter, tmp_path, device="cpu", dtype="float32")
    require_memory([job_of(settings)], settings)


def test_sizes_have_units() -> None:
    assert [as_gigabytes(size) for size in (7_600_000_000, 100_000_000, 99_000_000, 0)] == [
        "7.6 GB", "0.1 GB", "99.0 MB", "0.0 MB",
    ]  # fmt: skip
