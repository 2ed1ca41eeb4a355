"""Id, class, modules, tokenizer and sizes together decide which base an adapter is for."""

from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.architecture import ARCHITECTURES, LLAMA, PHI3
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.identity.base_of_adapter import assumed_architecture
from phi3_lora_qa.adapter.lint_context import LintContext
from tests.adapter.identity.published import FUSED, SPLIT, layers, published

SHARED = layers("self_attn.o_proj", "mlp.down_proj")
MISTRAL = {"base_model_class": "MistralForCausalLM",
           "parent_library": "transformers.models.mistral.modeling_mistral"}  # fmt: skip
QWEN = {"base_model_class": "Qwen2ForCausalLM", "parent_library": "transformers.models.qwen2.x"}
MINI = {"q_proj": (3072, 3072), "k_proj": (3072, 3072), "v_proj": (3072, 3072)}
LLAMA_3B = {"q_proj": (3072, 3072), "k_proj": (3072, 1024), "v_proj": (3072, 1024)}
TINY_LLAMA = {"o_proj": (2048, 2048), "down_proj": (5632, 2048)}


def context(tmp_path: Path, *arguments: Any, tokenizer: str = "", **config: Any) -> LintContext:
    adapter = published(*arguments, **config)
    if tokenizer:
        adapter.files["tokenizer_config.json"] = tokenizer.encode()
    return LintContext(AdapterFolder.open(adapter.save(tmp_path)), None)


@pytest.mark.parametrize(
    ("base", "modules", "sizes", "mapping", "is_phi"),
    [
        ("microsoft/Phi-3-mini-4k-instruct", layers(*FUSED), None, None, True),
        ("unsloth/Phi-3-mini-4k-instruct-bnb-4bit", layers(*SPLIT), None, MISTRAL, True),
        ("/x/phi-3", layers(*SPLIT), None, None, True),
        ("microsoft/Phi-3-mini-4k-instruct", layers(*SPLIT), None, QWEN, False),
        ("microsoft/Phi-3-mini-4k-instruct", SHARED, TINY_LLAMA, None, True),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", SHARED, None, None, False),
        ("THUDM/glm-4-9b", layers("self_attn.o_proj", "mlp.gate_up_proj"), None, None, False),
        ("Qwen/Qwen2.5-7B", layers(*FUSED), None, None, True),
        ("microsoft/Phi-3-vision-128k-instruct", layers(*FUSED), None, None, False),
        ("microsoft/Phi-3-mini-4k-instruct", ["transformer.h.0.attn.c_attn"], None, None, False),
        ("microsoft/Phi-3-mini-4k-instruct", ["a.b.c_proj_x"], None, None, True),
        (None, layers(*FUSED), None, None, True),
        (None, SHARED, None, None, None),
        (None, SHARED, TINY_LLAMA, None, False),
        (None, layers(*SPLIT), None, None, None),
        (None, layers(*SPLIT[:3]), MINI, None, True),
        (None, layers(*SPLIT[:3]), MINI, MISTRAL, True),
        (None, layers(*SPLIT[:3]), LLAMA_3B, None, None),
        (None, layers(*SPLIT), None, MISTRAL, False),
        (None, layers(*SPLIT), None, QWEN, False),
        (None, ["gpt_neox.layers.0.attention.dense"], None, None, False),
        ("acme/model", layers(*FUSED), None, None, True),
    ],
)
def test_the_words_are_weighed_together(
    base: str | None,
    modules: list[str],
    sizes: dict[str, tuple[int, int]] | None,
    mapping: dict[str, str] | None,
    is_phi: bool | None,
    tmp_path: Path,
) -> None:
    found = context(tmp_path, base, modules, sizes, auto_mapping=mapping).identity.base_of_adapter
    assert found.is_phi is is_phi
    assert found.evidence


@pytest.mark.parametrize("mapping", [None, MISTRAL])
def test_the_tokenizer_shows_a_phi_in_llamas_layout(
    mapping: dict[str, str] | None, tmp_path: Path
) -> None:
    markers = '["<|assistant|>", "<|end|>"]'
    arguments = ("/x/base", layers(*SPLIT))
    found = context(tmp_path / "a", *arguments, tokenizer=markers, auto_mapping=mapping)
    assert found.identity.base_of_adapter.is_phi
    qwen = context(tmp_path / "b", *arguments, tokenizer=markers, auto_mapping=QWEN)
    assert qwen.identity.base_of_adapter.is_phi is False


@pytest.mark.parametrize(
    ("base", "modules", "model_type"),
    [
        ("Qwen/Qwen2.5-7B", layers(*SPLIT), "qwen2"),
        ("google/gemma-3-270m", layers(*SPLIT), "gemma3_text"),
        ("Qwen/Qwen2.5-7B", SHARED, "qwen2"),
        ("unsloth/phi-4", layers(*SPLIT), LLAMA.model_type),
        ("/x", layers(*SPLIT), LLAMA.model_type),
        ("/x", SHARED, PHI3.model_type),
        ("microsoft/phi-4", layers(*FUSED), PHI3.model_type),
    ],
)
def test_without_a_base_the_layout_of_the_adapters_own_is_assumed(
    base: str, modules: list[str], model_type: str, tmp_path: Path
) -> None:
    found = context(tmp_path, base, modules).identity
    assumed = assumed_architecture(found.words, found.base_of_adapter)
    assert assumed is ARCHITECTURES[model_type]
