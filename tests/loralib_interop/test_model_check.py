"""loralib's faults: each is reproduced on the installed loralib and found by `check_model`.

Where a reproduction fails one day, loralib has mended the fault, and the guard may go.
"""

import copy
import io
import pickle
from typing import Any

import loralib
import pytest
import torch
from torch import nn

from phi3_lora_qa.loralib_interop import check_model


class Holder(nn.Module):
    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def healthy() -> nn.Module:
    merged = loralib.MergedLinear(4, 6, r=2, lora_dropout=0.1, enable_lora=[True, False])
    return Holder(a=loralib.Linear(4, 4, r=2, lora_dropout=0.1), b=merged, c=nn.Linear(4, 4))


def faults(model: nn.Module, **options: Any) -> dict[str, tuple[str, ...]]:
    return {problem.fault: problem.where for problem in check_model(model, **options)}


def fill(layer: Any) -> Any:
    with torch.no_grad():
        layer.lora_A.normal_()
        layer.lora_B.normal_()
    return layer


def test_a_model_without_faults_has_no_problem() -> None:
    assert check_model(healthy()) == ()
    assert check_model(nn.Linear(2, 2)) == ()


def test_a_problem_states_what_where_why_and_the_fix() -> None:
    (problem,) = check_model(Holder(layer=loralib.MergedLinear(4, 6, r=2, lora_dropout=0.1)))
    text = str(problem)
    assert " in layer: " in text
    assert "[False] by default" in text
    assert text.endswith(problem.fix)


@pytest.mark.parametrize(
    ("kind", "size"), [(loralib.Conv1d, (1, 3, 8)), (loralib.Conv3d, (1, 3, 5, 5, 5))]
)
def test_conv1d_and_conv3d_with_a_kernel_above_1_fail_and_are_found(kind: Any, size: Any) -> None:
    layer = kind(3, 4, 3, r=2)
    with pytest.raises(RuntimeError, match="shape"):
        layer(torch.zeros(size))
    assert faults(Holder(conv=layer))["conv-shape"] == ("conv",)


def test_conv1d_with_kernel_1_and_conv2d_work_and_have_no_problem() -> None:
    one, two = loralib.Conv1d(3, 4, 1, r=2), loralib.Conv2d(3, 4, 3, r=2)
    one(torch.zeros(1, 3, 8))
    two(torch.zeros(1, 3, 8, 8))
    assert "conv-shape" not in faults(Holder(one=one, two=two))


def test_a_tuple_as_kernel_size_cannot_even_be_built() -> None:
    with pytest.raises(AssertionError):
        loralib.Conv2d(3, 4, (3, 3), r=2)


def test_the_default_mask_fails_at_the_first_forward_pass_and_is_found() -> None:
    layer = loralib.MergedLinear(4, 6, r=2)
    with pytest.raises(AttributeError, match="lora_A"):
        layer(torch.zeros(1, 4))
    assert faults(Holder(layer=layer))["empty-mask"] == ("layer",)
    assert "empty-mask" not in faults(Holder(layer=loralib.MergedLinear(4, 6, r=0)))


def test_a_state_saved_while_merged_counts_the_delta_twice_and_is_found() -> None:
    layer = fill(loralib.Linear(4, 4, r=2))
    right = layer(torch.eye(4)).detach()
    layer.eval()  # on loralib's layers it returns None
    state = copy.deepcopy(layer.state_dict())
    assert faults(Holder(layer=layer))["merged"] == ("layer",)
    fresh = loralib.Linear(4, 4, r=2)
    fresh.load_state_dict(state)
    delta = layer.lora_B @ layer.lora_A * layer.scaling
    assert torch.allclose(fresh(torch.eye(4)) - right, delta.T, atol=1e-5)
    layer.train()
    assert "merged" not in faults(Holder(layer=layer))


def test_factors_loaded_while_merged_leave_the_old_delta_in_the_weights() -> None:
    layer = fill(loralib.Linear(4, 4, r=2))
    weight = layer.weight.detach().clone()
    layer.eval()
    layer.load_state_dict({"lora_A": torch.zeros(2, 4), "lora_B": torch.zeros(4, 2)}, strict=False)
    layer.train()
    assert not torch.allclose(layer.weight, weight, atol=1e-3)


def test_a_users_module_with_lora_in_its_name_stays_trainable_and_is_found() -> None:
    model = Holder(my_lora_block=nn.Linear(2, 2), layer=healthy())
    loralib.mark_only_lora_as_trainable(model)
    assert model.my_lora_block.weight.requires_grad  # type: ignore[union-attr]
    assert "my_lora_block.weight" in loralib.lora_state_dict(model)
    found = faults(model)["foreign-lora-name"]
    assert found == ("my_lora_block.weight", "my_lora_block.bias")


def test_the_dropout_of_a_convolution_is_ignored_and_found() -> None:
    layer = fill(loralib.Conv2d(3, 4, 3, r=2, lora_dropout=0.9))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(layer(x), layer(x))
    assert faults(Holder(conv=layer))["conv-dropout"] == ("conv",)
    assert "conv-dropout" not in faults(Holder(conv=loralib.Conv2d(3, 4, 3, r=2)))


def test_dropout_0_cannot_be_pickled_and_is_found() -> None:
    model = Holder(layer=loralib.Linear(4, 4, r=2))
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"local object|lambda"):
        torch.save(model, io.BytesIO())
    assert faults(model)["not-picklable"] == ("layer",)
    torch.save(healthy(), io.BytesIO())


def test_lora_only_neither_trains_nor_saves_the_bias_of_a_convolution() -> None:
    model = Holder(conv=loralib.Conv2d(3, 4, 3, r=2), line=loralib.Linear(4, 4, r=2))
    loralib.mark_only_lora_as_trainable(model, "lora_only")
    conv: Any = model.conv
    assert not conv.conv.bias.requires_grad
    saved = [name for name in loralib.lora_state_dict(model, "lora_only") if "bias" in name]
    assert saved == ["line.bias"]
    assert faults(model, bias="lora_only")["conv-bias"] == ("conv",)
    assert "conv-bias" not in faults(model, bias="all")


def test_an_embedding_with_max_norm_rescales_its_own_factor_and_is_found() -> None:
    layer = fill(loralib.Embedding(5, 4, r=3, max_norm=0.1))
    before = layer.lora_A.detach().clone()
    with torch.no_grad():
        layer(torch.tensor([0, 1]))
    assert not torch.equal(layer.lora_A, before)
    assert faults(Holder(table=layer))["max-norm"] == ("table",)
