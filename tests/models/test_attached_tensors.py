"""Every tensor of an adapter arrives in the model unchanged, or the adapter is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef
from tests.models.builders import (
    LAYER,
    EditConfig,
    EditTensors,
    MakeAdapter,
    WriteBase,
    assert_refused,
    logits,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["qkv_proj"], "layers_to_transform": [1]},
        {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 3}},
        {"target_modules": ["embed_tokens", "down_proj"]},
        {"trainable_token_indices": [3, 4]},
        {"init_lora_weights": "orthogonal"},
        {"lora_bias": True},
    ],
    ids="-".join,
)
def test_every_tensor_arrives_for_every_kind_of_lora(
    loaded: LoadedBase, toy_ref: BaseRef, make_adapter: MakeAdapter, settings: dict[str, Any]
) -> None:
    adapter = make_adapter(**settings)
    before = checksum(loaded.model)
    tuned = attach(loaded.model, adapter)
    with quiet():
        reference = PeftModel.from_pretrained(load_base(toy_ref).model, adapter)
    assert torch.equal(logits(tuned), logits(reference))
    assert checksum(loaded.model) == before


@pytest.mark.slow
@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_arrive_in_every_dtype(
    toy_ref: BaseRef,
    make_adapter: MakeAdapter,
    edit_tensors: EditTensors,
    saved: torch.dtype,
    dtype: str,
) -> None:
    adapter = make_adapter()
    weights = adapter / "adapter_model.safetensors"
    edit_tensors(weights, lambda t: t.update({name: x.to(saved) for name, x in t.items()}))
    tuned = attach(load_base(toy_ref, dtype).model, adapter)
    factor = tuned.get_parameter(f"{LAYER}.mlp.down_proj.lora_A.default.weight")
    assert torch.equal(factor, load_file(weights)[f"{LAYER}.mlp.down_proj.lora_A.weight"].float())


def test_a_nan_arrives_too_and_is_left_to_the_linter(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    adapter = make_adapter()
    edit_tensors(
        adapter / "adapter_model.safetensors",
        lambda t: t[f"{LAYER}.mlp.down_proj.lora_A.weight"].fill_(float("nan")),
    )
    assert logits(attach(loaded.model, adapter)).isnan().all()


def test_layers_with_llamas_names_are_refused_though_peft_ignores_them(
    loaded: LoadedBase, toy_ref: BaseRef, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    adapter = make_adapter()

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "qkv_proj" in name]:
            tensors[name.replace("qkv_proj", "q_proj")] = tensors.pop(name)

    edit_tensors(adapter / "adapter_model.safetensors", rename)
    with quiet():
        PeftModel.from_pretrained(load_base(toy_ref).model, adapter)
    assert_refused(
        loaded,
        adapter,
        rf"has 4 tensors for which .*{LAYER}.self_attn.q_proj.lora_A.*train qkv_proj",
    )


def test_a_missing_tensor_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    adapter, name = make_adapter(), f"{LAYER}.mlp.gate_up_proj.lora_B.weight"
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors.pop(name))
    assert_refused(
        loaded,
        adapter,
        rf"lacks 1 tensor that its config requires: {name}; save the whole adapter again$",
    )


def test_a_tensor_of_another_base_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    adapter, name = make_adapter(), f"{LAYER}.mlp.down_proj.lora_A.weight"
    edit_tensors(
        adapter / "adapter_model.safetensors", lambda t: t.update({name: torch.ones(4, 47)})
    )
    assert_refused(
        loaded,
        adapter,
        rf"1 tensor whose shape does not match .*{name} is \(4, 47\), not \(4, 48\)",
    )


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("base_model.model.lm_head.weight", "the base has no module under this config: "),
        ("base_model.model.model.norm.weight", "the base has no module under this config: "),
        (f"{LAYER}.self_attn.qkv_proj.weight", "the base has no module under this config: "),
        (f"{LAYER}.self_attn.qkv_proj.base_layer.weight", "replace model.layers.0.self_attn."),
        (
            "base_model.model.model.layers.9.base_layer.weight",
            "replace model.layers.9 of the base with another table",
        ),
    ],
)
def test_a_tensor_that_would_overwrite_the_base_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_tensors: EditTensors, key: str, what: str
) -> None:
    adapter = make_adapter()
    edit_tensors(
        adapter / "adapter_model.safetensors", lambda tensors: tensors.update({key: torch.ones(32)})
    )
    assert_refused(loaded, adapter, re.escape(what))


def test_a_bias_that_belongs_to_the_base_is_not_overwritten(
    loaded: LoadedBase,
    make_adapter: MakeAdapter,
    edit_config: EditConfig,
    edit_tensors: EditTensors,
) -> None:
    for layer in loaded.model.model.layers:
        layer.mlp.down_proj.bias = nn.Parameter(torch.zeros(32))
    adapter = make_adapter()
    edit_config(adapter / "adapter_config.json", bias="all")
    keys = [LAYER.replace("0", str(i)) + ".mlp.down_proj.base_layer.bias" for i in range(2)]
    edit_tensors(
        adapter / "adapter_model.safetensors",
        lambda t: t.update({key: torch.ones(32) for key in keys}),
    )
    assert_refused(
        loaded, adapter, r"would overwrite 2 tensors of the base: .*bias; train it with bias="
    )


def test_two_saved_values_for_one_tied_weight_are_refused(
    tmp_path: Path, write_base: WriteBase, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    base = load_base(write_base(tmp_path / "tied", tie_word_embeddings=True))
    adapter = make_adapter(base.ref, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    attach(base.model, adapter)
    edit_tensors(
        adapter / "adapter_model.safetensors",
        lambda t: t["base_model.model.lm_head.weight"].add_(1),
    )
    assert_refused(
        base, adapter, r"^1 tensor of .* changed when it was loaded .*: .*embed_tokens.weight;"
    )
