"""Other architectures: a healthy adapter passes every stage, and a damaged one is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from phi3_lora_qa.adapter.architecture import ARCHITECTURES, PHI3
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.lint_adapter import lint_adapter
from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.record import Outcome, RunRecord
from phi3_lora_qa.run_gate import gate_adapter

pytestmark = pytest.mark.slow

OTHERS = [name for name in ARCHITECTURES if name != PHI3.model_type]
SIZES = {
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 24, "vocab_size": 768, "max_position_embeddings": 4096,
    "bos_token_id": 1, "eos_token_id": 741, "pad_token_id": 741,
}  # fmt: skip


def make_base(model_type: str, folder: Path) -> transformers.PreTrainedModel:
    """Save a random model with the bundled tokenizer and a plain chat template."""
    shutil.copytree(bundled("tiny/base"), folder)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SIZES)
    model = getattr(transformers, ARCHITECTURES[model_type].class_name)(config)
    model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    model.save_pretrained(folder)
    return model


def make_adapter(model: transformers.PreTrainedModel, model_type: str, folder: Path) -> Path:
    lora = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=list(ARCHITECTURES[model_type].leaves),
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, lora)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    tuned.save_pretrained(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def gate(adapter: Path, base: Path, folder: Path) -> RunRecord:
    items = folder / "suite.jsonl"
    lines = (bundled("tiny") / "suite.jsonl").read_text().splitlines()[:6]
    items.write_text("\n".join(lines) + "\n")
    return gate_adapter(adapter, base=base, any_base=True, suite=[items])


def outcomes(record: RunRecord, *stages: str) -> dict[str, Outcome]:
    return {check.id: check.outcome for check in record.checks if check.stage in stages}


@pytest.mark.parametrize("model_type", OTHERS)
def test_a_healthy_adapter_of_another_architecture_passes_every_stage(
    model_type: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    adapter = make_adapter(make_base(model_type, base), model_type, tmp_path / "adapter")
    record = gate(adapter, base, tmp_path)
    found = outcomes(record, "static", "math", "checkpoint", "export")
    assert set(found.values()) == {"passed"}, found
    assert {check.stage for check in record.checks} >= {"static", "math", "checkpoint", "export"}
    assert outcomes(record, "quality")["phi3::quality::every_item_is_scored"] == "passed"
    expected = "fast" if ARCHITECTURES[model_type].is_scored_fast else "plain"
    assert record.environment["engine"] == expected


@pytest.mark.parametrize("model_type", ["qwen2", "gemma"])
def test_a_damaged_adapter_of_another_architecture_is_refused(
    model_type: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    adapter = make_adapter(make_base(model_type, base), model_type, tmp_path / "adapter")
    tensors = load_file(adapter / WEIGHTS)
    name = next(name for name in tensors if "layers.1.self_attn.k_proj.lora_B" in name)
    del tensors[name]
    save_file(tensors, adapter / WEIGHTS, metadata={"format": "pt"})
    report = lint_adapter(adapter, base, any_base=True)
    assert {finding.rule for finding in report.findings} == {"tensors-missing"}


def test_another_architecture_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_base("qwen2", base)
    adapter = bundled("tiny") / "adapter"
    with pytest.raises(BaseModelError, match=r"it is a Qwen2; .* base with --phi3-any-base$"):
        gate_adapter(adapter, base=base, stages=["static"])
    with pytest.raises(BaseModelError, match=r"it is a Qwen2; .* base with --any-base$"):
        lint_adapter(adapter, base)
