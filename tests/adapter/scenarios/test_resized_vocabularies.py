"""An adapter whose vocabulary was resized: the cause is named, and the fix works when followed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import LintReport, Severity, lint
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import resolve_base
from tests.adapter.poisoned_tokenizers import TINY

pytestmark = pytest.mark.slow

ROWS = 832


def resized_model() -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(TINY)
        model.resize_token_embeddings(ROWS)
    return model


def trained(model: Any, folder: Path, **config: Any) -> Path:
    """Save an adapter of a resized model, with noise in place of training."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer

    settings: dict[str, Any] = {
        "target_modules": ["qkv_proj", "o_proj"],
        "task_type": "CAUSAL_LM",
        "r": 4,
    } | config
    with quiet():
        tuned = get_peft_model(model, LoraConfig(**settings))
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data += 0.01 * torch.randn_like(parameter)
        tuned.save_pretrained(str(folder), save_embedding_layers=config == {})
        tokenizer = AutoTokenizer.from_pretrained(TINY)
        tokenizer.add_tokens(["<|tool|>"], special_tokens=True)
        tokenizer.save_pretrained(folder)
    return folder


def resized_base(base: Path, adapter: Path) -> Path:
    """Follow the fix that the findings name."""
    resized_model().save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(adapter / name, base / name)
    return base


def errors(report: LintReport) -> list[tuple[str, str, str]]:
    return [
        (f.rule, f.message, f.fix) for f in report.findings if f.severity is Severity.ERROR
    ]  # fmt: skip


@pytest.mark.parametrize("tables", [["embed_tokens", "lm_head"], ["lm_head"]])
def test_the_cause_is_named_and_the_fix_works(tables: list[str], tmp_path: Path) -> None:
    folder = trained(resized_model(), tmp_path / "adapter", modules_to_save=tables)
    found = errors(lint(AdapterFolder.open(folder), BaseFiles.open(TINY)))
    shapes = [(message, fix) for rule, message, fix in found if rule == "tensors-shape"]
    assert len(shapes) == len(tables)
    for message, fix in shapes:
        assert f"the vocabulary was resized to {ROWS} rows, and the base has" in message
        assert f"resize_token_embeddings({ROWS})" in fix
    base = resized_base(tmp_path / "base", folder)
    assert errors(lint(AdapterFolder.open(folder), BaseFiles.open(base))) == []
    attach(load_base(resolve_base(str(base))).model, folder)


def test_tables_that_modules_to_save_does_not_name(tmp_path: Path) -> None:
    folder = trained(resized_model(), tmp_path / "adapter")
    found = errors(lint(AdapterFolder.open(folder), BaseFiles.open(TINY)))
    tables = [(message, fix) for rule, message, fix in found if rule == "tensors-base-weight"]
    assert len(tables) == 2
    for message, fix in tables:
        assert message.startswith(f"the vocabulary was resized to {ROWS} rows, and the base has")
        assert fix.startswith("list ")
        assert f"resize_token_embeddings({ROWS})" in fix
    config = json.loads((folder / "adapter_config.json").read_text())
    config["modules_to_save"] = ["embed_tokens", "lm_head"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    base = resized_base(tmp_path / "base", folder)
    assert errors(lint(AdapterFolder.open(folder), BaseFiles.open(base))) == []
    attach(load_base(resolve_base(str(base))).model, folder)
