"""A base is a Phi by its architecture, its names or its chat markers."""

import pytest

from phi3_lora_qa.adapter.phi_family import is_phi, is_phi_name


class Files(dict[str, bytes]):
    def read_bytes(self, name: str, max_bytes: int, /) -> bytes | None:
        return self.get(name)


PHI_TOKENS = Files({"tokenizer.json": b'{"added_tokens": ["<|end|>", "<|assistant|>"]}'})
PHI4_TOKENS = Files({"tokenizer_config.json": b'{"a": "<|im_start|>", "b": "<|im_sep|>"}'})
CHATML = Files({"tokenizer_config.json": b'{"a": "<|im_start|>", "b": "<|im_end|>"}'})


@pytest.mark.parametrize(
    ("model_type", "name", "files", "expected"),
    [
        ("phi3", "", Files(), True),
        ("mistral", "unsloth/Phi-3-mini-4k-instruct", Files(), True),
        ("llama", "unsloth/phi-4-unsloth-bnb-4bit", Files(), True),
        ("llama", "", PHI_TOKENS, True),
        ("llama", "", PHI4_TOKENS, True),
        ("llama", "", CHATML, False),
        ("llama", "HuggingFaceTB/SmolLM2-135M-Instruct", Files(), False),
        ("mistral", "", Files(), False),
        ("qwen2", "someone/phi-3-like", PHI_TOKENS, False),
    ],
)
def test_a_phi_is_told_from_other_models(
    model_type: str, name: str, files: Files, expected: bool
) -> None:
    assert is_phi({"model_type": model_type}, name, files) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("microsoft/Phi-3.5-mini-instruct", True),
        ("unsloth/phi-4", True),
        ("phi3", True),
        ("microsoft/phi-2", False),
        ("phi-3/llama-8b", False),
        ("dolphin-3", False),
        ("phi-31b", False),
    ],
)
def test_names_of_phi_models(name: str, expected: bool) -> None:
    assert is_phi_name(name) is expected
