"""The gate refuses another base's adapter, and another format, with one failed check."""

import json
from pathlib import Path

import pytest

from phi3_lora_qa import gate_adapter
from phi3_lora_qa.record import Outcome, RunRecord
from tests.adapter.identity.published import SPLIT, layers, published

BASE = "phi3::static::basemodel"
"""The check of the base, which does not depend on the adapter."""


def gated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.chdir(folder.parent)
    return gate_adapter(folder, base="tiny")


def only_failure(record: RunRecord) -> tuple[str, str, str]:
    (failure,) = [check for check in record.checks if check.outcome is Outcome.FAILED]
    assert {check.outcome for check in record.checks} == {
        Outcome.FAILED, Outcome.PASSED, Outcome.NOT_RUN
    }  # fmt: skip
    passed = {check.id for check in record.checks if check.outcome is Outcome.PASSED}
    assert passed <= {"phi3::static::files", "phi3::static::manifest", BASE}
    return failure.id, failure.message, failure.fix or ""


def test_another_base_fails_the_check_of_the_config_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published("Qwen/Qwen2.5-7B-Instruct", layers(*SPLIT)).save(tmp_path / "qwen")
    check, message, fix = only_failure(gated(folder, monkeypatch))
    assert check == "phi3::static::config"
    assert "(a Qwen2), not for the Phi-3 of this check" in message
    assert "--phi3-any-base" in fix


def test_another_format_fails_the_check_of_the_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mlx"
    folder.mkdir()
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    record = gated(folder, monkeypatch)
    (failure,) = [check for check in record.checks if check.outcome is Outcome.FAILED]
    assert failure.id == "phi3::static::files"
    assert "an adapter of mlx-lm" in failure.message
    assert "convert mlx-to-peft" in (failure.fix or "")
    assert {check.id for check in record.checks if check.outcome is Outcome.PASSED} == {BASE}
