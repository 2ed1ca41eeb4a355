"""One adapter of one model in two layouts: the same deltas, losses, answers and verdict."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from phi3_lora_qa.cli import app
from phi3_lora_qa.lint_adapter import lint_adapter
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.record import RunRecord
from phi3_lora_qa.run_gate import gate_adapter
from tests.split_layout import fused_deltas, write_split_adapter, write_split_base

TINY = bundled("tiny")
SCALING = 2.0
LOSSES = ["base_loss", "tuned_loss"]
ANSWERS = ["base_answer", "tuned_answer"]

pytestmark = pytest.mark.slow


def fuse(adapter: Path, base: str, output: Path) -> Path:
    command = ["convert", "fuse", str(adapter), "--base", base, "-o", str(output)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return output


def gate(adapter: Path, base: str, folder: Path, **settings: Any) -> tuple[RunRecord, pd.DataFrame]:
    record = gate_adapter(
        adapter, base=base, report=folder, early_stop="off", order=1, cache_scores="off", **settings
    )
    return record, pd.read_parquet(folder / "items.parquet").set_index("id").sort_index()


def assert_equal_rows(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert list(one.index) == list(other.index)
    np.testing.assert_allclose(one[LOSSES], other[LOSSES], rtol=2e-5, atol=2e-5)
    pd.testing.assert_frame_equal(one[ANSWERS], other[ANSWERS])


@pytest.fixture(scope="module")
def split_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "adapter"
    return write_split_adapter(TINY / "adapter", TINY / "base", folder)


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_a_phi3_in_another_layout_gives_the_same_result(
    model_type: str, split_adapter: Path, tmp_path: Path
) -> None:
    base = write_split_base(TINY / "base", tmp_path / model_type, model_type)
    assert not lint_adapter(split_adapter, base).findings
    fused = fuse(split_adapter, "tiny", tmp_path / "fused")
    report = lint_adapter(fused, "tiny")
    assert not report.findings
    own, other = fused_deltas(fused, SCALING), fused_deltas(split_adapter, SCALING)
    assert own.keys() == other.keys()
    assert all(np.array_equal(own[name], other[name]) for name in own)
    suite = {"suite": [TINY / "suite.jsonl"], "thresholds": TINY / "thresholds.toml"}
    split_record, split_rows = gate(split_adapter, str(base), tmp_path / "split", **suite)
    fused_record, fused_rows = gate(fused, "tiny", tmp_path / "report", **suite)
    assert (split_record.verdict, fused_record.verdict) == ("PASS", "PASS")
    assert_equal_rows(split_rows, fused_rows)
    assert [c.id for c in split_record.checks] == [c.id for c in fused_record.checks]


def test_smollm2_in_two_layouts_gives_the_same_result(smollm2_folder: Path, tmp_path: Path) -> None:
    base = write_split_base(smollm2_folder, tmp_path / "llama", "llama")
    adapter = random_split_adapter(base, tmp_path / "adapter")
    fused = fuse(adapter, "smollm2", tmp_path / "fused")
    own, other = fused_deltas(fused, SCALING), fused_deltas(adapter, SCALING)
    assert all(np.array_equal(own[name], other[name]) for name in own)
    items = tmp_path / "suite.jsonl"
    lines = (bundled("general") / "suite.jsonl").read_text().splitlines()[:4]
    items.write_text("\n".join(lines) + "\n")
    some: dict[str, Any] = {"suite": [items], "stages": ["static", "math", "quality"]}
    split_record, split_rows = gate(adapter, str(base), tmp_path / "split", any_base=True, **some)
    fused_record, fused_rows = gate(fused, "smollm2", tmp_path / "report", **some)
    assert_equal_rows(split_rows, fused_rows)
    outcomes = [{c.id: c.outcome for c in r.checks} for r in (split_record, fused_record)]
    assert outcomes[0] == outcomes[1]
    assert split_record.verdict == fused_record.verdict


def random_split_adapter(base: Path, folder: Path) -> Path:
    """Write an adapter with random factors for all seven projections of a Llama."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuned = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=names, task_type="CAUSAL_LM")
    )
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2e-3)
    tuned.save_pretrained(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
