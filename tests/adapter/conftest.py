"""Fixtures: a random Phi-3 with two layers, in memory and on disk, for tests that run peft."""

from typing import Any

import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles


@pytest.fixture(scope="session")
def model() -> Any:
    """Return the model; tests must not change it (`tests.variants.train` copies it)."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=96, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return Phi3ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def model_files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> BaseFiles:
    """Return the files of the model."""
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return BaseFiles.open(folder)
