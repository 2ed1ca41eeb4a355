"""Modules from a config and from the shapes of weights."""

import pytest

from phi3_lora_qa.adapter.architecture import PHI3
from phi3_lora_qa.adapter.base_modules import (
    EMBEDDING,
    HEAD,
    ModuleKind,
    modules_from_config,
    modules_from_shapes,
    skeleton,
)


def test_a_skeleton_has_every_layer_and_no_sizes() -> None:
    modules = skeleton(PHI3, 3)
    assert "model.layers.2.self_attn.qkv_proj" in modules
    assert "model.layers.3.self_attn.qkv_proj" not in modules
    assert modules[EMBEDDING].kind is ModuleKind.EMBEDDING
    assert {module.inputs for module in modules.values()} == {None}


def test_a_tied_head_is_the_table_turned_around() -> None:
    modules = modules_from_shapes({f"{EMBEDDING}.weight": (64, 8)}, tied=True)
    assert (modules[HEAD].inputs, modules[HEAD].outputs) == (8, 64)
    assert HEAD not in modules_from_shapes({f"{EMBEDDING}.weight": (64, 8)}, tied=False)


def test_weights_without_a_table_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"have no model\.embed_tokens"):
        modules_from_shapes({"model.norm.weight": (8,)}, tied=True)


@pytest.mark.parametrize("size", [0, -1, "8", None, 1 << 40, True])
def test_a_size_that_is_no_size_is_an_error(size: object) -> None:
    config = {
        "model_type": "phi3", "hidden_size": size, "intermediate_size": 8, "vocab_size": 8,
        "num_attention_heads": 2, "num_hidden_layers": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="hidden_size is"):
        modules_from_config(config)


def test_an_unknown_model_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown model type 'gpt2'"):
        modules_from_config({"model_type": "gpt2"})
