"""A Llama converted to Phi-3's layout computes the same logits."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3ForCausalLM

from phi3_lora_qa.models.phi3_layout import fuse, phi3_config
from phi3_lora_qa.models.smollm2_build import LARGEST_DIFFERENCE

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def llama(**changes: Any) -> LlamaForCausalLM:
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 36,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 64,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()


@pytest.mark.parametrize("heads", [(9, 3), (9, 9), (9, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_in_phi3s_layout_has_the_same_logits(heads: tuple[int, int], tied: bool) -> None:
    original = llama(
        num_attention_heads=heads[0], num_key_value_heads=heads[1], tie_word_embeddings=tied
    )
    phi3 = Phi3ForCausalLM(phi3_config(original.config)).eval()
    phi3.load_state_dict(fuse(original.state_dict()), strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(phi3(IDS).logits, original(IDS).logits, atol=1e-5, rtol=1e-5)


def test_parts_that_are_fused_in_a_wrong_order_would_be_noticed() -> None:
    original = llama()
    phi3 = Phi3ForCausalLM(phi3_config(original.config)).eval()
    weights = fuse(original.state_dict())
    for name in [name for name in weights if "gate_up_proj" in name]:
        weights[name] = weights[name].roll(40, dims=0)
    phi3.load_state_dict(weights, strict=True)
    with torch.inference_mode():
        difference = (phi3(IDS).logits - original(IDS).logits).abs().max().item()
    assert difference > 100 * LARGEST_DIFFERENCE


def test_fusing_stacks_rows_and_changes_nothing_else() -> None:
    weights = llama().state_dict()
    fused, layer = fuse(weights), "model.layers.1"
    query, key = (weights[f"{layer}.self_attn.{n}_proj.weight"] for n in "qk")
    whole = fused[f"{layer}.self_attn.qkv_proj.weight"]
    assert torch.equal(whole[:36], query)
    assert torch.equal(whole[36:48], key)
    assert fused["model.norm.weight"] is weights["model.norm.weight"]
    assert not any("q_proj" in name or ".up_proj" in name for name in fused)
    assert f"{layer}.self_attn.q_proj.weight" in weights
