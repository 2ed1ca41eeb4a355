"""Patterns that may run forever in PEFT are replaced by the names in the weights file."""

import shutil
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.models.attach import attach, shared_copy
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.peft_config import read_lora_config
from phi3_lora_qa.models.peft_config_patterns import (
    has_unmatched_patterns,
    replace_unmatched_patterns,
)
from tests.models.builders import EditConfig, MakeAdapter, logits

BACK_REFERENCE = r"(m)odel\.layers\.\d+\.\1lp\..*_proj"
YEARS = r"(x?)([a-z_.0-9]|.)*_proj\1"
"""A pattern on which `re` takes 2**30 steps for a name of 30 characters that does not match."""


def test_a_back_reference_is_replaced_and_the_model_is_the_same(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(target_modules=BACK_REFERENCE)
    assert has_unmatched_patterns(AdapterFolder.open(adapter))
    targets = read_lora_config(adapter).target_modules
    assert not isinstance(targets, str)
    assert sorted(targets or ()) == [
        f"model.layers.{layer}.mlp.{leaf}"
        for layer in (0, 1)
        for leaf in ("down_proj", "gate_up_proj")
    ]
    own = PeftModel.from_pretrained(shared_copy(loaded.model), str(adapter)).eval()
    assert torch.equal(logits(attach(loaded.model, adapter)), logits(own))


def test_a_pattern_that_takes_years_is_never_run(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_config: EditConfig, tmp_path: Path
) -> None:
    adapter = make_adapter()
    expected = logits(attach(loaded.model, adapter))
    for fields in (
        {"target_modules": YEARS},
        {"exclude_modules": YEARS},
        {"rank_pattern": {YEARS: 4}},
    ):
        changed = shutil.copytree(adapter, tmp_path / next(iter(fields)))
        edit_config(changed / "adapter_config.json", **fields)
        assert torch.equal(logits(attach(loaded.model, changed)), expected)


def test_ranks_that_a_pattern_gave_are_those_of_the_file(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(rank_pattern={BACK_REFERENCE: 2})
    own = PeftModel.from_pretrained(shared_copy(loaded.model), str(adapter)).eval()
    assert torch.equal(logits(attach(loaded.model, adapter)), logits(own))


def test_a_config_that_can_be_matched_is_left_as_it_is(make_adapter: MakeAdapter) -> None:
    pattern = r"^(model(?=\.).*\.(qkv_proj|down_proj))$"
    adapter = make_adapter(target_modules=pattern)
    folder = AdapterFolder.open(adapter)
    assert not has_unmatched_patterns(folder)
    config = PeftConfig.from_pretrained(str(adapter))
    replace_unmatched_patterns(config, folder)
    assert config.target_modules == pattern
