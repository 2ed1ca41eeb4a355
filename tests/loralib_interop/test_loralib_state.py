from collections.abc import Callable
from typing import Any

import loralib
import pytest
import torch
from torch import nn

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.loralib_interop import (
    LoralibConfig,
    adapt,
    load_lora_state,
    lora_state_dict,
    mark_only_lora_as_trainable,
)

CONFIG = LoralibConfig(rank=2, alpha=4, targets=("o_proj", "qkv_proj"))
DOWN = "model.layers.0.self_attn.o_proj.lora_A"


@pytest.fixture
def adapted(model: Any, perturb: Callable[[Any], None]) -> Any:
    adapt(model, CONFIG)
    perturb(model)
    return model


@pytest.fixture
def state(adapted: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lora_state_dict(adapted).items()}


def test_the_state_is_loralibs_own(adapted: Any) -> None:
    theirs = loralib.lora_state_dict(adapted)
    ours = lora_state_dict(adapted)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2 * 8


def test_a_state_that_fits_is_loaded_exactly(adapted: Any, state: dict[str, torch.Tensor]) -> None:
    for tensor in lora_state_dict(adapted).values():
        tensor.zero_()
    report = load_lora_state(adapted, state)
    assert report.complete
    assert set(report.loaded) == set(state)
    assert all(torch.equal(lora_state_dict(adapted)[n], t) for n, t in state.items())


def test_a_mistyped_key_is_reported_although_torch_is_silent(
    adapted: Any, state: dict[str, torch.Tensor]
) -> None:
    state[DOWN.replace("o_proj", "out_proj")] = state.pop(DOWN)
    adapted.load_state_dict(state, strict=False)  # no error: the fault that is guarded against
    report = load_lora_state(adapted, state, strict=False)
    assert report.missing == (DOWN,)
    assert report.unexpected == (DOWN.replace("o_proj", "out_proj"),)
    assert len(report.loaded) == len(state) - 1
    assert "1 missing" in str(report)
    assert "1 unexpected" in str(report)


def test_by_default_a_mismatch_is_an_error_and_nothing_is_loaded(
    adapted: Any, state: dict[str, torch.Tensor]
) -> None:
    before = {name: tensor.clone() for name, tensor in lora_state_dict(adapted).items()}
    state = {name: tensor + 1 for name, tensor in state.items()}
    del state[DOWN]
    with pytest.raises(InputError, match=r"1 missing \(.*o_proj.lora_A\)"):
        load_lora_state(adapted, state)
    assert all(torch.equal(lora_state_dict(adapted)[n], t) for n, t in before.items())


def test_a_different_shape_is_reported_and_not_loaded(
    adapted: Any, state: dict[str, torch.Tensor]
) -> None:
    state[DOWN] = torch.zeros(3, 96)
    report = load_lora_state(adapted, state, strict=False)
    assert report.mismatched == ((DOWN, (3, 96), (2, 96)),)
    assert lora_state_dict(adapted)[DOWN].any()
    with pytest.raises(InputError, match=r"\(3, 96\), not \(2, 96\)"):
        load_lora_state(adapted, state)


def test_only_lora_parameters_count_as_missing_and_a_weight_of_the_base_is_never_loaded(
    adapted: Any, state: dict[str, torch.Tensor]
) -> None:
    assert not load_lora_state(adapted, state).missing
    state["model.norm.weight"] = torch.zeros(96)
    report = load_lora_state(adapted, state, strict=False)
    assert report.unexpected == ("model.norm.weight",)
    assert adapted.model.norm.weight.any()


def test_trained_biases_are_saved_and_loaded() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4))
    adapt(model, LoralibConfig(rank=1, alpha=1, targets=("0",), bias="lora_only"))
    assert model[0].bias.requires_grad
    state = {n: t.clone() + 1 for n, t in lora_state_dict(model, "lora_only").items()}
    assert set(load_lora_state(model, state).loaded) == {"0.lora_A", "0.lora_B", "0.bias"}
    assert torch.equal(model[0].bias, state["0.bias"])


def merging() -> nn.Module:
    return nn.Sequential(loralib.Linear(4, 4, r=2))


def test_saving_and_loading_while_merged_are_refused_and_work_after_train() -> None:
    model = merging()
    state = lora_state_dict(model)
    model.eval()
    with pytest.raises(InputError, match=r"1 layers are merged \(0\).*model.train\(\) first"):
        lora_state_dict(model)
    with pytest.raises(InputError, match="loading now"):
        load_lora_state(model, state)
    model.train()
    assert load_lora_state(model, lora_state_dict(model)).complete


def test_a_user_module_with_lora_in_its_name_is_named_and_refused() -> None:
    model = merging()
    model.add_module("my_lora_block", nn.Linear(2, 2))
    for guarded in (mark_only_lora_as_trainable, lora_state_dict):
        with pytest.raises(InputError, match=r"my_lora_block\.weight.*rename the modules"):
            guarded(model)


def test_lora_only_with_a_biased_convolution_is_refused_and_all_is_not() -> None:
    model = nn.Sequential(loralib.Conv2d(3, 4, 3, r=2))
    with pytest.raises(InputError, match='use bias="all" or "none"'):
        mark_only_lora_as_trainable(model, "lora_only")
    mark_only_lora_as_trainable(model, "all")
    assert "0.conv.bias" in lora_state_dict(model, "all")


def test_an_unknown_bias_is_refused() -> None:
    with pytest.raises(InputError, match="unknown bias"):
        mark_only_lora_as_trainable(merging(), "some")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_a_tensor_without_real_numbers_is_not_cast_to_a_factor(
    adapted: Any, state: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    state[DOWN] = state[DOWN].to(dtype)
    with pytest.raises(
        InputError, match=rf"not a LoRA parameter: {DOWN} is {dtype}; pass the state"
    ):
        load_lora_state(adapted, state, strict=False)


def test_a_value_that_is_not_a_tensor_is_named(adapted: Any, state: dict[str, Any]) -> None:
    state[DOWN] = [1.0]
    with pytest.raises(InputError, match=f"not a LoRA parameter: {DOWN} is list; pass the"):
        load_lora_state(adapted, state, strict=False)
