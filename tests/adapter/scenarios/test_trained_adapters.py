"""Adapters that peft trains and saves are accepted, and load in peft."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.lint import Severity, lint
from phi3_lora_qa.adapter.manifest import scaling_table
from tests.variants import FUSED, VARIANTS, train


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_that_peft_trained_is_accepted_with_pefts_scaling(
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
    scaled = {
        name.removeprefix("base_model.model."): module.scaling["default"]
        for name, module in loaded.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert scaled
    assert scaling_table(folder) == pytest.approx(scaled)


def test_an_untrained_adapter_of_each_kind_is_rejected(model: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    for label in (True, "gaussian", "mica", "eva", "orthogonal"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig(r=4, target_modules=FUSED, task_type="CAUSAL_LM",
                                init_lora_weights=label)  # fmt: skip
            get_peft_model(copy.deepcopy(model), config).save_pretrained(str(tmp_path / str(label)))
        report = lint(AdapterFolder.open(tmp_path / str(label)))
        assert {f.rule for f in report.findings} == {"values-untrained"}


def test_combined_adapters_are_accepted_except_an_adapter_minus_itself(
    model: Any, model_files: BaseFiles, tmp_path: Path
) -> None:
    from peft import PeftModel

    for name, options in {"a": {}, "b": {"init_lora_weights": "gaussian"}}.items():
        train(model, tmp_path / name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path / "a"), "a")
        tuned.load_adapter(str(tmp_path / "b"), "b")
        for kind, density in {
            "cat": None, "svd": None, "linear": None, "ties": 0.3, "dare_linear": 0.3,
            "magnitude_prune": 0.1,
        }.items():  # fmt: skip
            more = {"density": density} if density else {}
            tuned.add_weighted_adapter(["a", "b"], [0.7, 0.3], kind, kind, **more)
        tuned.add_weighted_adapter(["a", "a"], [0.5, 0.5], "twice", "cat")
        tuned.add_weighted_adapter(["a", "a"], [1.0, -1.0], "nothing", "cat")
        tuned.save_pretrained(str(tmp_path))
    for name in ("cat", "svd", "linear", "ties", "dare_linear", "magnitude_prune", "twice"):
        for base in (None, model_files):
            report = lint(AdapterFolder.open(tmp_path / name), base)
            assert [f for f in report.findings if f.severity is Severity.ERROR] == [], name
    report = lint(AdapterFolder.open(tmp_path / "nothing"), model_files)
    assert {f.rule for f in report.findings} >= {"values-untrained"}


@pytest.mark.parametrize("label", ["pissa", "olora"])
def test_an_adapter_converted_from_pissa_or_olora_is_accepted(
    label: Any, model: Any, model_files: BaseFiles, tmp_path: Path
) -> None:
    """Its second half subtracts the initial factors; what is left is what was learned."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(r=4, lora_alpha=8, target_modules=FUSED, task_type="CAUSAL_LM",
                            init_lora_weights=label)  # fmt: skip
        tuned = get_peft_model(copy.deepcopy(model), config)
        config.init_lora_weights = True
        tuned.save_pretrained(str(tmp_path / "start"))
        config.init_lora_weights = label
        optimizer = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), lr=1e-4)
        tokens = torch.randint(3, 96, (4, 12))
        tuned(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        start = str(tmp_path / "start")
        tuned.save_pretrained(str(tmp_path / "end"), path_initial_model_for_weight_conversion=start)
    for base in (None, model_files):
        report = lint(AdapterFolder.open(tmp_path / "end"), base)
        assert [f for f in report.findings if f.severity is not Severity.INFO] == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_adapters_of_any_dtype_on_a_base_of_any_dtype_are_accepted_and_attached(
    stored: str, dtype: str, model: Any, tmp_path: Path
) -> None:
    """Adapters with a copy of a table, which training rounds to its dtype."""
    import torch
    from transformers import AutoModelForCausalLM

    from phi3_lora_qa.models.attach import attach
    from phi3_lora_qa.models.checksum import checksum

    copy.deepcopy(model).to(getattr(torch, stored)).save_pretrained(tmp_path / "base")
    base = BaseFiles.open(tmp_path / "base")

    def load(name: str) -> Any:
        kind = getattr(torch, name)
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=kind).eval()

    plain = load("float32")
    before = checksum(plain)
    for name in ("embeddings", "head", "dora_everywhere"):
        train(load(dtype), tmp_path / name, **VARIANTS[name])
        report = lint(AdapterFolder.open(tmp_path / name), base)
        assert [f for f in report.findings if f.severity is not Severity.INFO] == [], name
        tuned = attach(plain, tmp_path / name)
        with tuned.disable_adapter(), torch.inference_mode():
            tokens = torch.arange(3, 11)[None]
            assert torch.equal(tuned(tokens).logits, plain(tokens).logits)
        assert checksum(plain) == before


def test_names_with_the_default_adapter_name_load_in_peft_and_are_a_warning(
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


def test_every_field_of_pefts_config_is_read_or_rejected_by_name() -> None:
    import dataclasses

    from peft import LoraConfig

    from phi3_lora_qa.adapter.config_schema import FIELDS, REFUSED, WITHOUT_EFFECT

    known = {*FIELDS, *REFUSED, *WITHOUT_EFFECT, "auto_mapping"}
    assert {f.name for f in dataclasses.fields(LoraConfig)} - known == set()
    written = LoraConfig(r=4, target_modules=FUSED).to_dict()
    assert json.dumps(written, default=list)
