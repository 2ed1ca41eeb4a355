import copy
import io
from collections.abc import Callable
from typing import Any

import loralib
import pytest
import torch
from torch import nn

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.loralib_interop import (
    LayerSpec,
    LoralibConfig,
    adapt,
    check_model,
    describe_layers,
    plan_layers,
    replace_layers,
)

ALL = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens")


def config(**changes: Any) -> LoralibConfig:
    values: dict[str, Any] = {"rank": 2, "alpha": 6, "targets": ALL}
    return LoralibConfig(**values | changes)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=True)
        self.wide = nn.Conv2d(4, 4, (3, 1))
        self.line = nn.Conv1d(4, 4, 3)
        self.table = nn.Embedding(5, 4, max_norm=1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.stem(x)
        return out


def test_a_newly_adapted_model_computes_the_same_as_before(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        before = model(ids).logits
        layers = adapt(model, config())
        assert torch.equal(model(ids).logits, before)
    assert len(layers) == 4 * 4 + 1
    assert {type(m).__name__ for m in model.modules() if hasattr(m, "lora_A")} == {
        "Linear", "MergedLinear", "Embedding",
    }  # fmt: skip


def test_the_weights_are_the_same_parameters_and_switching_modes_leaves_their_bits(
    model: Any, tiny: Any, perturb: Callable[[Any], None]
) -> None:
    parameter = model.model.layers[0].mlp.down_proj.weight
    adapt(model, config())
    assert model.model.layers[0].mlp.down_proj.weight is parameter
    perturb(model)
    model.train().eval()
    for name, weight in tiny.model.named_parameters():
        assert torch.equal(model.get_parameter(name), weight), name


def test_embedding_starts_with_a_zero_and_the_others_with_b_zero(model: Any) -> None:
    adapt(model, config())
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            zero, drawn = module.lora_B, module.lora_A
            if name.endswith("embed_tokens"):
                zero, drawn = drawn, zero
            assert not zero.any()
            assert drawn.abs().min() > 0


def test_only_factors_are_trainable_and_the_dtype_is_the_weights(model: Any) -> None:
    adapt(model.to(torch.bfloat16), config())
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all(name.endswith(("lora_A", "lora_B")) for name in trainable)
    assert {p.dtype for p in trainable.values()} == {torch.bfloat16}


def test_a_masked_block_gets_no_delta_and_the_others_have_their_own(
    model: Any, tiny: Any, perturb: Callable[[Any], None]
) -> None:
    masks = {"qkv_proj": {"q": True, "k": False, "v": True}}
    adapt(model, config(targets=("qkv_proj",), masks=masks))
    perturb(model)
    x = torch.randn(3, 96)
    new = model.model.layers[0].self_attn.qkv_proj
    change = new(x) - tiny.model.model.layers[0].self_attn.qkv_proj(x)
    q, k, v = change.split([96, 48, 48], dim=1)
    assert not k.any()
    assert q.abs().min() > 0
    assert v.abs().min() > 0
    assert new.enable_lora == [True, True, False, True]
    assert tuple(new.lora_A.shape) == (2 * 3, 96)


def test_loralibs_own_layer_over_the_same_weights_computes_the_same(model: Any) -> None:
    old = model.model.layers[0].self_attn.qkv_proj
    theirs = loralib.MergedLinear(96, 192, 2, 6, enable_lora=[True, True, False, True], bias=False)
    theirs.weight = old.weight
    masks = {"qkv_proj": {"q": True, "k": False, "v": True}}
    adapt(model, config(targets=("qkv_proj",), masks=masks))
    ours = model.model.layers[0].self_attn.qkv_proj
    with torch.no_grad():
        theirs.lora_A.copy_(ours.lora_A)
        theirs.lora_B.copy_(ours.lora_B.normal_())
        x = torch.randn(3, 96)
        assert torch.equal(ours(x), theirs(x))


def test_an_adapted_model_has_none_of_loralibs_faults_and_can_be_pickled(model: Any) -> None:
    adapt(model, config(dropout=0.0))
    assert check_model(model.eval()) == ()
    torch.save(model.model.layers[0].mlp, io.BytesIO())
    copy.deepcopy(model)


def test_dropout_is_active_only_in_training(
    model: Any, ids: torch.Tensor, perturb: Callable[[Any], None]
) -> None:
    adapt(model, config(dropout=0.5))
    perturb(model)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)
        model.train()
        assert not torch.equal(model(ids).logits, model(ids).logits)


def test_a_convolution_keeps_its_settings_and_its_output() -> None:
    model, x = Convolutions(), torch.randn(1, 3, 9, 9)
    before = model(x)
    (layer,) = adapt(model, config(targets=("stem",)))
    assert layer.kind == "Conv2d"
    assert torch.equal(model(x), before)
    model.stem.lora_B.data.normal_()  # type: ignore[operator]
    assert not torch.equal(model(x), before)


def test_the_planned_layers_are_those_in_the_model(model: Any) -> None:
    masks = {"qkv_proj": {"q": True, "k": False, "v": False}}
    planned = plan_layers(model, config(dropout=0.1, masks=masks))
    assert not any(hasattr(module, "lora_A") for module in model.modules())
    replace_layers(model, planned)
    assert describe_layers(model) == planned


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("q_proj",)}, "target matches no layer of the model: q_proj"),
        ({"targets": ("self_attn",)}, "for which loralib has no layer"),
        ({"targets": ("o_proj",), "masks": {"qkv_proj": [True]}}, "matches no layer; remove"),
        ({"targets": ("o_proj",), "masks": {"o_proj": [True, False] + [True] * 3}}, "96 rows"),
        (
            {"targets": ("embed_tokens",), "masks": {"embed_tokens": [True]}},
            "only to linear layers",
        ),
        ({"rank": 0}, "rank must be at least 1: got 0"),
        ({"alpha": float("nan")}, "alpha must be finite: got nan"),
        ({"dropout": 1.0}, "below 1: got 1.0"),
    ],
)
def test_unsupported_settings_are_refused_before_the_model_is_changed(
    model: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        adapt(model, config(**changes))
    assert not any(hasattr(module, "lora_A") for module in model.modules())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("wide", "kernel of 3 x 1, and loralib supports only square"),
        ("line", "whose factors loralib shapes for two dimensions"),
        ("table", "has max_norm, with which"),
    ],
)
def test_layers_that_fail_in_loralib_are_refused_with_the_reason(target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapt(Convolutions(), config(targets=(target,)))


def test_an_adapted_layer_cannot_be_adapted_again(model: Any) -> None:
    adapt(model, config())
    with pytest.raises(InputError, match="for which loralib has no layer"):
        adapt(model, config())


def test_layers_of_another_model_are_rejected(model: Any) -> None:
    down = "model.layers.0.mlp.down_proj"
    for layer, message in (
        (
            LayerSpec(name="model.layers.99.mlp.down_proj", kind="Linear", rank=1, alpha=1),
            "no layer",
        ),
        (LayerSpec(name=down, kind="Embedding", rank=1, alpha=1), "can become a Linear"),
    ):
        with pytest.raises(InputError, match=message):
            replace_layers(model, [layer])
