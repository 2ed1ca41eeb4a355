"""The names of modules show the layout, and the family of other architectures."""

import pytest

from phi3_lora_qa.adapter.identity.module_layout import Layout, module_layout
from tests.adapter.identity.published import FUSED, SPLIT, layers


@pytest.mark.parametrize(
    ("modules", "layout"),
    [
        (layers(*FUSED), Layout.FUSED),
        (layers(*SPLIT), Layout.SPLIT),
        (layers("self_attn.q_proj"), Layout.SPLIT),
        (layers("self_attn.o_proj", "mlp.down_proj"), Layout.SHARED),
        (layers("self_attn.q_proj", "mlp.gate_up_proj"), Layout.MIXED),
        (layers(*SPLIT, prefix="layers"), Layout.SPLIT),
        ([*layers(*FUSED), "lm_head", "model.embed_tokens"], Layout.FUSED),
        (layers("self_attn.qkv_prj", "self_attn.o_proj"), Layout.SHARED),
        (["lm_head"], Layout.UNKNOWN),
        ([], Layout.UNKNOWN),
        (["x.y.down_proj"], Layout.UNKNOWN),
    ],
)
def test_layouts_of_the_table(modules: list[str], layout: Layout) -> None:
    assert module_layout(modules).layout is layout


@pytest.mark.parametrize(
    ("modules", "family"),
    [
        (["transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc"], "GPT-2"),
        (["gpt_neox.layers.0.attention.query_key_value"], "GPT-NeoX"),
        (["transformer.h.0.self_attention.query_key_value"], "BLOOM or Falcon"),
        (["transformer.h.0.attn.qkv_proj"], "CodeGen"),
        (["transformer.h.0.attn.q_proj", "transformer.h.0.attn.out_proj"], "GPT-J or GPT-Neo"),
        (["transformer.h.0.mixer.Wqkv", "transformer.h.0.mlp.fc1"], "the first Phi-1.5 and Phi-2"),
        (layers("self_attn.q_proj", "self_attn.dense", "mlp.fc1"), "Phi-1.5 or Phi-2"),
        (layers("self_attn.q_proj", "mlp.c_fc"), "StarCoder2"),
        (layers("self_attn.W_pack", "self_attn.o_proj", "mlp.down_proj"), "Baichuan"),
        (layers("attention.wqkv", "feed_forward.w1"), "InternLM2"),
        (layers("self_attn.kv_b_proj", "self_attn.o_proj"), "DeepSeek-V2 or V3"),
        (layers("self_attn.q_proj", "block_sparse_moe.experts.3.w1"), "a mixture of experts"),
        (layers("self_attn.q_proj", prefix="model.language_model.layers"), "a multimodal model"),
        (layers("self_attn.q_proj", "linear_attn.in_proj_qkv"), "a hybrid such as Qwen3-Next"),
        (["model.decoder.layers.0.self_attn.q_proj"], "OPT"),
        (["model.encoder.layers.0.self_attn.q_proj", "model.decoder.layers.0.encoder_attn.q_proj"],
         "an encoder-decoder such as BART or Whisper"),
        (["encoder.block.0.layer.0.SelfAttention.q"], "T5"),
        (["bert.encoder.layer.0.attention.self.query"], "BERT"),
        (["distilbert.transformer.layer.0.attention.q_lin"], "DistilBERT"),
        (["vit.encoder.layer.0.attention.attention.query"], "a vision model"),
        (["transformer.blocks.0.attn.Wqkv"], "MPT"),
        (["transformer.encoder.layers.0.self_attention.query_key_value"], "ChatGLM"),
        (["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"], "a diffusion model"),
        (["backbone.layers.0.mixer.in_proj"], "a state-space model"),
        (["deep.net.0.thing"], ""),
    ],
)  # fmt: skip
def test_other_architectures_are_named(modules: list[str], family: str) -> None:
    found = module_layout(modules)
    assert found.layout is Layout.OTHER
    assert found.family == family


def test_only_qkv_proj_is_phi3s_for_sure() -> None:
    assert module_layout(layers(*FUSED)).is_fused_for_sure
    assert not module_layout(layers("self_attn.o_proj", "mlp.gate_up_proj")).is_fused_for_sure
    assert module_layout(layers("self_attn.q_proj")).is_whole
    assert not module_layout(layers("self_attn.q_proj", prefix="layers")).is_whole
