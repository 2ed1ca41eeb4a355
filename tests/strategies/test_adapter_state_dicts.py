"""Drawn adapters contain exactly the tensors that peft saves and loads."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import Phi3ForCausalLM

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.strategies import (
    adapter_state_dicts,
    batches,
    lora_configs,
    phi3_configs,
)
from tests.strategies.drawing import SLOW, smallest

PLAIN = smallest(phi3_configs())
QKV = "base_model.model.model.layers.0.self_attn.qkv_proj"

pytestmark = pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`",
    "ignore:`lora_bias=True` was passed",
    "ignore:.*have invalid shape",  # said of lora_B's bias, which peft takes for a factor
    "ignore:`is_gradient_checkpointing` is deprecated",
)


def saved_by_peft(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(model)
    return tensors


@SLOW
@given(data=st.data())
def test_an_adapter_has_what_peft_saves_loads_completely_and_runs(data: st.DataObject) -> None:
    config = data.draw(phi3_configs())
    chosen = data.draw(lora_configs(config, mergeable=False))
    drawn = data.draw(adapter_state_dicts(config, chosen))
    batch = data.draw(batches(config))
    model = get_peft_model(Phi3ForCausalLM(config), chosen).eval()

    expected = {name: tuple(tensor.shape) for name, tensor in saved_by_peft(model).items()}
    assert {name: values.shape for name, values in drawn.items()} == expected
    assert {values.dtype for values in drawn.values()} == {np.dtype("float32")}

    result: Any = set_peft_model_state_dict(
        model, {name: torch.from_numpy(values) for name, values in drawn.items()}
    )
    assert result.unexpected_keys == []
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained & set(result.missing_keys) == set()
    for name, tensor in saved_by_peft(model).items():
        np.testing.assert_array_equal(tensor.numpy(), drawn[name], err_msg=name)

    ids, mask = map(torch.from_numpy, (batch.input_ids, batch.attention_mask))
    with torch.inference_mode():
        assert model(ids, attention_mask=mask).logits[mask.bool()].isfinite().all()


@pytest.mark.parametrize("seen_by_peft", [False, True])
def test_a_config_means_the_same_before_and_after_peft_processes_it(seen_by_peft: bool) -> None:
    chosen = LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"], r=2)
    if seen_by_peft:
        get_peft_model(Phi3ForCausalLM(PLAIN), chosen)
    drawn = smallest(adapter_state_dicts(PLAIN, chosen))
    assert sum(name.endswith("lora_A.weight") for name in drawn) == 4
    assert drawn["base_model.model.lm_head.weight"].shape == (32, 16)


@pytest.mark.parametrize(
    ("targets", "tokens", "stored"),
    [
        (["embed_tokens"], None, True),
        (["model.embed_tokens"], None, False),  # peft looks for the short name only
        (r".*embed_tokens", None, True),
        (["embed_tokens"], {"lm_head": [1]}, False),
    ],
)
def test_the_table_itself_is_drawn_when_peft_writes_it(
    targets: list[str] | str, tokens: dict[str, list[int]] | None, stored: bool
) -> None:
    chosen = LoraConfig(target_modules=targets, trainable_token_indices=tokens)
    drawn = smallest(adapter_state_dicts(PLAIN, chosen))
    assert any("base_layer" in name for name in drawn) == stored
    model = get_peft_model(Phi3ForCausalLM(PLAIN), chosen)
    assert set(drawn) == set(saved_by_peft(model))


def test_an_adapter_shrinks_to_ones() -> None:
    chosen = smallest(lora_configs(PLAIN))
    drawn = smallest(adapter_state_dicts(PLAIN, chosen))
    assert {name: values.shape for name, values in drawn.items()} == {
        f"{QKV}.lora_A.weight": (1, 16),
        f"{QKV}.lora_B.weight": (48, 1),
    }
    assert all((values == 1).all() for values in drawn.values())


def test_a_failure_in_one_module_leaves_the_others_as_ones() -> None:
    chosen = LoraConfig(target_modules="all-linear", r=1)
    drawn = smallest(
        adapter_state_dicts(PLAIN, chosen), lambda d: not d[f"{QKV}.lora_B.weight"].any()
    )
    others = [values for name, values in drawn.items() if name != f"{QKV}.lora_B.weight"]
    assert all((values == 1).all() for values in others)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_lora_weights": "pissa"}, "subtracts it from the base weights"),
        (
            {"use_bdlora": {"target_modules_bd_a": ["qkv_proj"], "nblocks": 2}},
            "use_bdlora is not supported: it splits",
        ),
    ],
)
def test_an_unsupported_config_is_refused(fields: dict[str, Any], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = LoraConfig(target_modules=["qkv_proj"], **fields)
    with pytest.raises(InputError, match=message):
        smallest(adapter_state_dicts(PLAIN, chosen))


def uses_groups(config: Any) -> bool:
    return bool(config.num_key_value_heads < config.num_attention_heads)


def test_sizes_follow_the_config() -> None:
    config: Any = smallest(phi3_configs(), uses_groups)
    drawn = smallest(adapter_state_dicts(config, LoraConfig(target_modules=["qkv_proj"], r=3)))
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    head = config.hidden_size // heads
    assert drawn[f"{QKV}.lora_B.weight"].shape == ((heads + 2 * groups) * head, 3)
