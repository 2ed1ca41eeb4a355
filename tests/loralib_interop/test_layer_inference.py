from typing import Any

import pytest
import torch

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.conversion.fused_blocks import phi3_blocks
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.loralib_interop import (
    LayerSpec,
    LoralibConfig,
    adapt,
    infer_layers,
    lora_state_dict,
)
from phi3_lora_qa.models.registry import bundled

QKV, DOWN = "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def base() -> BaseFiles:
    return BaseFiles.open(bundled("tiny/base"))


def infer(base: BaseFiles, tensors: Any, **masks: Any) -> tuple[LayerSpec, ...]:
    blocks = phi3_blocks(base.config)
    return infer_layers(tensors, base.modules, alpha=3.0, masks=masks, blocks=blocks)


def state(name: str, a: tuple[int, int], b: tuple[int, int]) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_A": torch.zeros(a), f"{name}.lora_B": torch.zeros(b)}


@pytest.mark.parametrize(
    "mask", [{"q": True, "k": False, "v": True}, {"q": True, "k": True, "v": True}]
)
def test_layers_are_inferred_from_the_shapes_and_the_mask(
    model: Any, base: BaseFiles, mask: dict[str, bool]
) -> None:
    targets = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens")
    config = LoralibConfig(rank=2, alpha=3.0, targets=targets, masks={"qkv_proj": mask})
    built = adapt(model, config)
    assert infer(base, lora_state_dict(model), qkv_proj=mask) == built


def test_no_mask_is_needed_if_all_blocks_are_enabled(base: BaseFiles) -> None:
    (layer,) = infer(base, state(QKV, (8, 96), (192, 2)))
    assert layer.mask == (True,) * 4
    (layer,) = infer(base, state(QKV, (6, 96), (192, 2)))  # three blocks of 64 rows
    assert layer.mask == (True,) * 3


def test_the_enabled_blocks_are_never_guessed(base: BaseFiles) -> None:
    tensors = state(QKV, (6, 96), (144, 2))
    with pytest.raises(InputError, match=r"factors for 3 of 4 blocks, .*--mask qkv_proj=q,v"):
        infer(base, tensors)
    (layer,) = infer(base, tensors, qkv_proj=[True, False, True, True])
    assert layer.mask == (True, False, True, True)


@pytest.mark.parametrize(
    ("tensors", "masks", "message"),
    [
        (state("model.layers.9.mlp.down_proj", (2, 256), (96, 2)), {}, "the base has no layer"),
        (state(f"module.{DOWN}", (2, 256), (96, 2)), {}, "the base has no layer module"),
        (state(DOWN, (2, 255), (96, 2)), {}, "do not fit the base"),
        (state(DOWN, (2, 256), (97, 2)), {}, "do not fit the base"),
        (state(DOWN, (3, 256), (96, 2)), {}, "do not fit the base"),
        (state(DOWN, (0, 256), (96, 0)), {}, "do not fit the base"),
        (state("model.norm", (1, 96), (96, 1)), {}, "do not fit the base"),
        (state(QKV, (6, 96), (144, 2)), {"qkv_proj": [True, False]}, "instead of 3 of 4"),
        (state(DOWN, (2, 256), (96, 2)), {"qkv_proj": [True]}, "matches no layer"),
    ],
)
def test_shapes_that_fit_no_layer_are_rejected(
    base: BaseFiles, tensors: Any, masks: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        infer(base, tensors, **masks)


def test_integers_are_not_factors(base: BaseFiles) -> None:
    tensors = {name: t.long() for name, t in state(DOWN, (2, 256), (96, 2)).items()}
    with pytest.raises(InputError, match=r"not a loralib factor: .* of torch\.int64, and a PEFT"):
        infer(base, tensors)
