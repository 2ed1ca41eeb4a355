"""What peft itself trains and saves is accepted, and does load: the linter knows the real thing."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.adapter.config import read_config
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.lint import Severity, lint
from phi3_lora_qa.adapter.matching import Matching
from tests.variants import FUSED, VARIANTS, train


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_peft_trained_is_accepted_and_means_the_same_to_peft(
    variant: str, model: Any, model_files: BaseFiles, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    tuned = train(model, tmp_path, **VARIANTS[variant])
    folder = AdapterFolder.open(tmp_path)
    for report in (lint(folder), lint(folder, model_files)):
        assert [f for f in report.findings if f.severity is not Severity.INFO] == []

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path)).eval()
    tokens = torch.arange(3, 19).reshape(2, 8)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, tuned(tokens).logits)
    matching = Matching(read_config(folder))
    scaled = {
        name.removeprefix("base_model.model."): module.scaling["default"]
        for name, module in loaded.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert scaled
    assert {name: matching.scaling(name) for name in scaled} == pytest.approx(scaled)


def test_an_untrained_adapter_of_each_kind_is_rejected(model: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    for label in (True, "gaussian", "mica", "eva"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig(r=4, target_modules=FUSED, task_type="CAUSAL_LM",
                                init_lora_weights=label)  # fmt: skip
            get_peft_model(copy.deepcopy(model), config).save_pretrained(str(tmp_path / str(label)))
        report = lint(AdapterFolder.open(tmp_path / str(label)))
        assert {f.rule for f in report.findings} == {"values-untrained"}


def test_names_with_the_default_adapter_name_load_in_peft_and_are_warned_of(
    model: Any, model_files: BaseFiles, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file

    tuned = train(model, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    renamed = {n.replace(".weight", ".default.weight"): t for n, t in tensors.items()}
    save_file(renamed, tmp_path / WEIGHTS)
    report = lint(AdapterFolder.open(tmp_path), model_files)
    assert [f.rule for f in report.findings] == ["tensors-adapter-name"]
    assert report.accepted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path)).eval()
    tokens = torch.arange(3, 11).reshape(1, 8)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, tuned(tokens).logits)


def test_every_field_of_pefts_config_is_either_read_or_refused_by_name() -> None:
    import dataclasses

    from peft import LoraConfig

    from phi3_lora_qa.adapter.schema import FIELDS, REFUSED

    known = {*FIELDS, *REFUSED, "auto_mapping"}
    assert {f.name for f in dataclasses.fields(LoraConfig)} - known == set()
    written = LoraConfig(r=4, target_modules=FUSED).to_dict()
    assert json.dumps(written, default=list)
