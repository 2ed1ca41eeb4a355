"""The checksum identifies a model by all of its tensors."""

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef


def flip_one_bit(model: nn.Module) -> None:
    weight = next(model.parameters()).data.view(torch.int32)
    weight.view(-1)[0] ^= 1


def change_a_buffer(model: nn.Module) -> None:
    next(model.buffers()).view(-1)[-1] += 1


def rename_a_weight(model: nn.Module) -> None:
    layer = model.get_submodule("model.layers.0.mlp")
    layer.add_module("renamed_proj", layer.get_submodule("down_proj"))
    del layer.down_proj


def reshape_a_weight(model: nn.Module) -> None:
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    layer.weight = nn.Parameter(layer.get_parameter("weight").data.view(48, 32))


def hide_a_zero(model: nn.Module) -> None:
    weight = next(model.parameters()).data
    weight.view(-1)[0] = -0.0


def test_a_base_has_the_same_checksum_each_time_it_is_loaded(toy_ref: BaseRef) -> None:
    first, second = (checksum(load_base(toy_ref).model) for _ in range(2))
    assert first == second
    assert len(first) == 64


@pytest.mark.parametrize(
    "change", [flip_one_bit, change_a_buffer, rename_a_weight, reshape_a_weight, hide_a_zero]
)
def test_the_smallest_change_changes_the_checksum(
    loaded: LoadedBase, change: Callable[[nn.Module], None]
) -> None:
    next(loaded.model.parameters()).data.view(-1)[0] = 0.0
    before = checksum(loaded.model)
    change(loaded.model)
    assert checksum(loaded.model) != before


def test_the_dtype_is_part_of_the_checksum(toy_ref: BaseRef) -> None:
    checksums = {checksum(load_base(toy_ref, dtype).model) for dtype in ("float32", "bfloat16")}
    assert len(checksums) == 2


def test_a_tied_weight_counts_under_each_of_its_names() -> None:
    tied, untied = nn.Linear(4, 4), nn.Linear(4, 4)
    separate = nn.ModuleDict({"a": tied, "b": copy.deepcopy(tied)})
    assert checksum(separate) == checksum(nn.ModuleDict({"a": tied, "b": tied}))
    assert checksum(separate) != checksum(nn.ModuleDict({"a": tied, "b": untied}))


def test_a_model_with_peft_layers_is_refused_until_they_are_unloaded(loaded: LoadedBase) -> None:
    before = checksum(loaded.model)
    with quiet():
        tuned = get_peft_model(loaded.model, LoraConfig(target_modules="all-linear"))
    assert isinstance(tuned, PeftModel)
    with pytest.raises(BaseModelError, match=r"PEFT layer at .*layers.0.*call unload\(\)"):
        checksum(tuned)
    assert checksum(tuned.unload()) == before
