from typing import Any

import pytest

from phi3_lora_qa.conversion.fused_blocks import Mask, expand_mask, phi3_blocks
from phi3_lora_qa.errors import InputError

GROUPED = {"q": 96, "k": 48, "v": 48}
EQUAL = {"q": 64, "k": 64, "v": 64}
MEDIUM = {"q": 5120, "k": 1280, "v": 1280}


def test_the_blocks_of_the_tiny_base_add_up_to_its_fused_layers(tiny: Any) -> None:
    blocks = phi3_blocks(tiny.model.config.to_dict())
    layer = tiny.model.model.layers[0]
    assert blocks["qkv_proj"] == GROUPED
    assert sum(blocks["qkv_proj"].values()) == layer.self_attn.qkv_proj.out_features
    assert sum(blocks["gate_up_proj"].values()) == layer.mlp.gate_up_proj.out_features


def test_other_architectures_have_no_known_blocks() -> None:
    assert phi3_blocks({"model_type": "llama", "hidden_size": 4}) == {}


def test_a_config_without_a_size_is_refused() -> None:
    with pytest.raises(InputError, match="no usable hidden_size"):
        phi3_blocks({"model_type": "phi3"})


@pytest.mark.parametrize(
    ("blocks", "mask", "expected"),
    [
        (EQUAL, {"q": True, "k": False, "v": True}, (True, False, True)),
        (GROUPED, {"q": True, "k": False, "v": True}, (True, True, False, True)),
        (GROUPED, {"q": False, "k": False, "v": True}, (False, False, False, True)),
        (MEDIUM, {"q": True, "k": True, "v": False}, (True,) * 5 + (False,)),
        ({}, [False, True], (False, True)),
        (GROUPED, [True, False], (True, False)),
    ],
)
def test_a_mask_expands_to_equal_blocks_of_the_greatest_common_size(
    blocks: dict[str, int], mask: Mask, expected: tuple[bool, ...]
) -> None:
    assert expand_mask(mask, blocks) == expected


def test_a_mask_expands_to_finer_blocks_unless_they_cut_a_block() -> None:
    mask = {"q": True, "k": False, "v": False}
    assert expand_mask(mask, GROUPED, 8) == (True,) * 4 + (False,) * 4
    with pytest.raises(InputError, match="3 equal blocks of 64 rows do not fit"):
        expand_mask(mask, GROUPED, 3)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"q": True, "k": False, "v": True, "o": True}, "block in the mask: 'o'; use q, k, v"),
        ({"q": True}, "lacks the block k; set it to"),
        ({"q": False, "k": False, "v": False}, "enables no block"),
        ([False], "loralib's default"),
        ([], "enables no block"),
        (["yes"], "must contain only true and false: got"),
        ({"q": 1, "k": 0, "v": 0}, "must contain only true and false: got"),
    ],
)
def test_an_invalid_mask_is_refused(mask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand_mask(mask, GROUPED)
