"""Tests of the rules about files that loaders take from the folder: a base, weights, settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.adapter.lint import LintReport, Severity
from tests.adapter.adapters import plain, report_on
from tests.adapter.packing import pack
from tests.adapter.tiny_base import MODEL_CONFIG, write_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = write_base(tmp_path / "base", architectures=["Phi3ForCausalLM"])
    settings = {"eos_token_id": [7, 3], "max_length": 4096, "pad_token_id": 3}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def severities(report: LintReport) -> dict[str, Severity]:
    return {f.rule: f.severity for f in report.findings}


def report_with(base: Path, folder: Path, **files: Any) -> LintReport:
    adapter = plain()
    adapter.files = {
        name.replace("__", "."): content
        if isinstance(content, bytes)
        else json.dumps(content).encode()
        for name, content in files.items()
    }
    return report_on(adapter, folder, base)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"architectures": ["Phi3ForSequenceClassification"]},
        {"hidden_size": 64},
        {"model_type": "llama"},
        {"tokenizer_class": "GPT2Tokenizer"},
    ],
)
def test_the_config_of_another_model_is_rejected(
    change: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    report = report_with(base, tmp_path / "a", config__json=MODEL_CONFIG | change)
    assert severities(report)["files-own-base"] is Severity.ERROR
    assert next(iter(change)) in next(f.message for f in report.findings)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"transformers_version": "4.1"},
        {"torch_dtype": "float16", "use_cache": False},
        {"x": None},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {"_attn_implementation_autoset": True, "rms_norm_eps": 1e-5},
    ],
)
def test_the_bases_own_config_is_reported_and_accepted(
    change: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    """torchtune copies it into the adapter's folder."""
    report = report_with(base, tmp_path / "a", config__json=MODEL_CONFIG | change)
    assert severities(report) == {"files-other-model": Severity.INFO}
    assert report.accepted


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "consolidated.safetensors",
        "anything.safetensors",
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "consolidated.00.pth",
    ],
)
def test_weights_next_to_the_config_are_rejected(name: str, base: Path, tmp_path: Path) -> None:
    files = {"config__json": MODEL_CONFIG, name: pack({})}
    assert (
        severities(report_with(base, tmp_path / "a", **files))["files-own-base"] is Severity.ERROR
    )


def test_the_bases_own_weights_are_accepted_until_a_byte_differs(
    base: Path, tmp_path: Path
) -> None:
    data = (base / "model.safetensors").read_bytes()
    config = json.loads((base / "config.json").read_text())
    files = {"config__json": config, "model.safetensors": data}
    assert report_with(base, tmp_path / "a", **files).accepted
    other = files | {"config__json": config | {"rope_theta": 5.0}}
    assert (
        severities(report_with(base, tmp_path / "c", **other))["files-own-base"] is Severity.ERROR
    )
    files["model.safetensors"] = data[:-1] + bytes([data[-1] ^ 1])
    assert (
        severities(report_with(base, tmp_path / "b", **files))["files-own-base"] is Severity.ERROR
    )


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"eos_token_id": [3, 7], "max_length": 4096}, ""),
        ({"eos_token_id": [7, 3], "max_length": 4096, "repetition_penalty": 1.0}, ""),
        ({"eos_token_id": [7, 3], "max_length": 4096, "pad_token_id": 1, "use_cache": True}, ""),
        ({"eos_token_id": [7, 3], "max_length": 4096, "bad_words_ids": None}, ""),
        ({"eos_token_id": [7, 3], "max_length": 4096, "temperature": 0.1}, "files-sampling"),
        ({"eos_token_id": [7, 3], "max_length": 4096, "do_sample": True}, "files-sampling"),
        ({"eos_token_id": 7, "max_length": 4096}, "files-generation"),
        ({"max_length": 4096}, "files-generation"),
        ({"eos_token_id": [7, 3], "max_length": 8}, "files-generation"),
        ({"eos_token_id": [7, 3], "max_length": 4096, "max_new_tokens": 1}, "files-generation"),
        ({"eos_token_id": [7, 3], "max_length": 4096, "max_new_tokens": 256}, "files-generation"),
        ({"eos_token_id": [7, 3], "max_length": 4096, "max_new_tokens": 2048}, ""),
        ({"eos_token_id": [7, 3], "max_length": 4096, "bos_token_id": 1}, ""),
        ({"eos_token_id": [7, 3], "max_length": 4096, "bad_words_ids": [[4]]}, "files-generation"),
        ({"eos_token_id": [7, 3], "max_length": 4096, "no_such": 1}, "files-generation"),
        (b"{", "files-generation"),
    ],
)
def test_generation_settings_are_compared_with_the_bases(
    settings: Any, rule: str, base: Path, tmp_path: Path
) -> None:
    report = report_with(base, tmp_path / "a", generation_config__json=settings)
    assert set(severities(report)) == ({rule} if rule else set())
    assert report.accepted is (rule != "files-generation")


def test_a_base_without_generation_settings_has_those_of_its_config(
    tmp_path: Path,
) -> None:
    base = write_base(tmp_path / "base")
    config = MODEL_CONFIG | {"eos_token_id": 5}
    (base / "config.json").write_text(json.dumps(config))
    for number, token in enumerate((5, 6)):
        found = report_with(
            base, tmp_path / str(number), generation_config__json={"eos_token_id": token}
        )
        assert found.accepted is (token == 5)


@pytest.mark.parametrize(
    ("name", "content", "rejected"),
    [
        ("more.safetensors", pack({}), False),
        ("more.safetensors", pack({"base_model.model.x.weight": np.zeros(1, "f4")}), True),
        ("more.safetensors", b"no safetensors", True),
        ("adapter_model-00002-of-00002.safetensors", b"\0" * 9, True),
        ("new_embeddings.bin", b"", True),
        ("new_embeddings.safetensors", pack({}), True),
    ],
)
def test_additional_adapter_weights_are_rejected(
    name: str, content: bytes, rejected: bool, base: Path, tmp_path: Path
) -> None:
    found = severities(report_with(base, tmp_path / "a", **{name: content}))
    assert ("files-further-weights" in found) is rejected
