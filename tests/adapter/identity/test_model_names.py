"""The family of a model follows from its id, its path or its class."""

import pytest

from phi3_lora_qa.adapter.identity.model_names import (
    PHI,
    family_of_class,
    family_of_id,
    part_with_name,
)


@pytest.mark.parametrize(
    ("name", "family", "model_type"),
    [
        ("unsloth/llama-3-8b-bnb-4bit", "Llama", "llama"),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "Llama", "llama"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Llama", "llama"),
        ("codellama/CodeLlama-7b-hf", "Llama", "llama"),
        ("lmsys/vicuna-7b-v1.5", "Llama", "llama"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "Llama", "llama"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "Qwen2", "qwen2"),
        ("meta-llama/Llama-4-Scout-17B-16E", "Llama of another kind", ""),
        ("unsloth/qwen2.5-7b-instruct-unsloth-bnb-4bit", "Qwen2", "qwen2"),
        ("Qwen/Qwen1.5-7B", "Qwen2", "qwen2"),
        ("Qwen/Qwen-7B-Chat", "Qwen", ""),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen-VL", ""),
        ("Qwen/Qwen3-0.6B-Base", "Qwen3", "qwen3"),
        ("Qwen/Qwen3-30B-A3B", "Qwen3 of another kind", ""),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral", "mistral"),
        ("HuggingFaceH4/zephyr-7b-beta", "Mistral", "mistral"),
        ("cognitivecomputations/dolphin-2.6-mistral-7b", "Mistral", "mistral"),
        ("mistralai/Mixtral-8x7B-v0.1", "Mixtral", ""),
        ("google/gemma-2b", "Gemma", "gemma"),
        ("google/gemma-2-2b-it", "Gemma 2", "gemma2"),
        ("google/gemma-3-270m", "Gemma 3", "gemma3_text"),
        ("google/gemma-3n-E2B", "Gemma of another kind", ""),
        ("microsoft/phi-2", "Phi-2", ""),
        ("microsoft/phi-1_5", "Phi-1.5", ""),
        ("microsoft/phi-1", "Phi-1", ""),
        ("microsoft/Phi-3-small-8k-instruct", "Phi-3-small", ""),
        ("microsoft/Phi-3.5-MoE-instruct", "Phi-3.5-MoE", ""),
        ("microsoft/Phi-3-vision-128k-instruct", "Phi-3-vision", ""),
        ("microsoft/Phi-4-multimodal-instruct", "Phi-4-multimodal", ""),
        ("microsoft/Phi-4-mini-flash-reasoning", "Phi-4-mini-flash", ""),
        ("google/codegemma-7b", "Gemma", "gemma"),
        ("tiiuae/Falcon3-7B-Instruct", "Llama", "llama"),
        ("unsloth/Mistral-Small-24B-Instruct-2501-bnb-4bit", "Mistral", "mistral"),
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "Mistral of another kind", ""),
        ("mistralai/Ministral-3-8B-Instruct-2512", "Mistral of another kind", ""),
        ("01-ai/Yi-Coder-9B", "Llama", "llama"),
        ("gpt2", "GPT-2", ""),
        ("distilbert/distilgpt2", "GPT-2", ""),
        ("EleutherAI/pythia-1b", "GPT-NeoX", ""),
        ("cyberagent/open-calm-1b", "GPT-NeoX", ""),
        ("bigscience/bloom-560m", "BLOOM", ""),
        ("tiiuae/falcon-7b", "Falcon", ""),
        ("facebook/opt-350m", "OPT", ""),
        ("mosaicml/mpt-7b", "MPT", ""),
        ("Salesforce/codegen-350M-mono", "CodeGen", ""),
        ("bigcode/starcoder2-3b", "StarCoder2", ""),
        ("bigcode/starcoderbase-1b", "StarCoder", ""),
        ("THUDM/glm-4-9b-chat", "ChatGLM", ""),
        ("THUDM/chatglm-6b", "ChatGLM", ""),
        ("baichuan-inc/Baichuan-7B", "Baichuan", ""),
        ("internlm/internlm2-chat-7b", "InternLM2", ""),
        ("google/flan-t5-base", "T5", ""),
        ("openai/whisper-small", "Whisper", ""),
        ("distilbert-base-uncased", "DistilBERT", ""),
        ("FacebookAI/roberta-base", "BERT", ""),
        ("google/vit-base-patch16-224-in21k", "a vision model", ""),
        ("stabilityai/stable-diffusion-xl-base-1.0", "a diffusion model", ""),
        ("/home/me/models/llama-7b-hf", "Llama", "llama"),
        ("C:\\models\\Qwen2.5-7B\\checkpoint-500", "Qwen2", "qwen2"),
        ("/cache/models--Qwen--Qwen3-8B/snapshots/0123456789012345678901234567890123456789",
         "Qwen3", "qwen3"),
    ],
)  # fmt: skip
def test_an_id_or_path_names_its_family(name: str, family: str, model_type: str) -> None:
    found = family_of_id(name)
    assert found is not None
    assert (found.name, found.model_type) == (family, model_type)
    assert not found.is_phi


@pytest.mark.parametrize(
    "name",
    ["microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3.5-mini-instruct", "microsoft/phi-4",
     "microsoft/Phi-4-mini-reasoning", "unsloth/phi-3-mini-4k-instruct-bnb-4bit",
     "vonjack/Phi-3-mini-4k-instruct-LLaMAfied", "/home/me/llama-factory/phi-3-mini/checkpoint-50",
     "/data/phi3/merged_model", "someone/phi-3-mini-mistral-style"],
)  # fmt: skip
def test_a_phi_is_a_phi_whatever_else_its_name_contains(name: str) -> None:
    assert family_of_id(name) == PHI


@pytest.mark.parametrize(
    "name",
    ["", "tiny", "acme/helpdesk", "/home/me/llama-factory/out/base", "smollm2", "./model",
     "HuggingFaceTB/SmolLM2-135M-Instruct", "acme/adopt-7b", "acme/superb-7b", "/", "x" * 9000],
)  # fmt: skip
def test_other_names_say_nothing(name: str) -> None:
    assert family_of_id(name) is None


def test_the_part_of_a_path_that_names_the_model_is_found() -> None:
    assert part_with_name("/a/qwen/checkpoint-500/") == "qwen"
    assert part_with_name("a/base") == "a"
    assert part_with_name("models") == "models"


@pytest.mark.parametrize(
    ("library", "name", "family", "model_type"),
    [
        ("transformers.models.qwen2.modeling_qwen2", "Qwen2ForCausalLM", "Qwen2", "qwen2"),
        ("transformers.models.llama.modeling_llama", "LlamaModel", "Llama", "llama"),
        ("transformers.models.phi3.modeling_phi3", "Phi3ForCausalLM", "Phi-3", "phi3"),
        ("transformers_modules.microsoft.Phi-3.modeling_phi3", "Phi3ForCausalLM", "Phi-3", "phi3"),
        ("transformers.models.vit.modeling_vit", "ViTForImageClassification", "ViT", ""),
        ("", "BloomForCausalLM", "Bloom", ""),
        ("transformers.models.gpt2.modeling_gpt2", "GPT2LMHeadModel", "GPT2", ""),
        ("transformers_modules.baichuan.modeling", "BaichuanForCausalLM", "Baichuan", ""),
    ],
)
def test_a_class_names_its_family(library: str, name: str, family: str, model_type: str) -> None:
    found = family_of_class(library, name)
    assert found is not None
    assert (found.name, found.model_type) == (family, model_type)


@pytest.mark.parametrize(
    ("library", "name"),
    [("peft.peft_model", "PeftModel"), ("peft.peft_model", "PeftModelForCausalLM"), ("", ""),
     ("transformers.modeling_utils", "PreTrainedModel"), ("x", "y"), (".", "AutoModelForCausalLM")],
)  # fmt: skip
def test_classes_of_any_model_say_nothing(library: str, name: str) -> None:
    assert family_of_class(library, name) is None
