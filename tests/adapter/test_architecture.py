"""The table of architectures says what transformers' classes contain."""

from pathlib import Path

import pytest
import transformers

from phi3_lora_qa.adapter.architecture import (
    ARCHITECTURES,
    FUSED_OF,
    FUSED_PARTS,
    LLAMA,
    PHI3,
    Architecture,
    architecture_of,
    is_tied,
)
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.base_modules import HEAD, modules_from_config

ALL = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=list(ARCHITECTURES))


def save_model(architecture: Architecture, folder: Path, **settings: object) -> None:
    config = transformers.AutoConfig.for_model(
        architecture.model_type,
        **{
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 64,
            "pad_token_id": 0,
            **settings,
        },
    )
    getattr(transformers, architecture.class_name)(config).save_pretrained(folder)


@ALL
@pytest.mark.parametrize("attention_bias", [False, True])
def test_the_config_gives_the_modules_that_the_weights_have(
    architecture: Architecture, attention_bias: bool, tmp_path: Path
) -> None:
    save_model(architecture, tmp_path, attention_bias=attention_bias)
    base = BaseFiles.open(tmp_path)
    assert base.files
    assert base.architecture is architecture
    if architecture is PHI3:  # transformers' Phi-3 ignores the field
        attention_bias = False
    config = {**base.config, "attention_bias": attention_bias}
    assert dict(modules_from_config(config)) == dict(base.modules)


@ALL
def test_a_head_is_tied_if_transformers_ties_it(architecture: Architecture, tmp_path: Path) -> None:
    save_model(architecture, tmp_path)
    base = BaseFiles.open(tmp_path)
    saved = {name for file in base.files for name in file.tensors}
    assert base.is_tied == (f"{HEAD}.weight" not in saved)
    untold = {"model_type": architecture.model_type}
    default = transformers.AutoConfig.for_model(architecture.model_type).tie_word_embeddings
    assert is_tied(untold) == bool(default)


def test_every_split_projection_has_its_fused_one() -> None:
    assert set(FUSED_OF) == set(LLAMA.leaves) - set(PHI3.leaves)
    assert set(FUSED_PARTS) == set(PHI3.leaves) - set(LLAMA.leaves)


@pytest.mark.parametrize("model_type", ["gpt2", None, 3, ["phi3"]])
def test_another_model_type_has_no_architecture(model_type: object) -> None:
    assert architecture_of({"model_type": model_type}) is None
