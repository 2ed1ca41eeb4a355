"""A random Phi-3 of a few kilobytes with a word tokenizer, and adapters for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, manual_seed, nn
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef


def write_tokenizer(folder: Path) -> None:
    words = ["<unk>", "<s>", "<|end|>", *(f"w{number}" for number in range(60))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<|end|>",
    ).save_pretrained(folder)


def toy_config(**changes: Any) -> Phi3Config:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    return Phi3Config(**sizes | changes)


def save_base(folder: Path, **changes: Any) -> BaseRef:
    manual_seed(0)
    with quiet():
        model = Phi3ForCausalLM(toy_config(**changes))
        for (
            parameter
        ) in model.parameters():  # large enough that different models have different logits
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    write_tokenizer(folder)
    return ref(folder)


def ref(folder: Path) -> BaseRef:
    return BaseRef(id=str(folder), folder=folder, name=folder.name)


@pytest.fixture
def write_base() -> Callable[..., BaseRef]:
    """Save a random base, with changes to its config."""
    return save_base


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> BaseRef:
    return save_base(tmp_path_factory.mktemp("bases") / "toy")


@pytest.fixture
def toy(original: BaseRef, tmp_path: Path) -> Path:
    """A copy of the base folder that a test may damage."""
    assert original.folder is not None
    return shutil.copytree(original.folder, tmp_path / "toy")


@pytest.fixture
def toy_ref(toy: Path) -> BaseRef:
    return ref(toy)


@pytest.fixture
def loaded(toy_ref: BaseRef) -> LoadedBase:
    return load_base(toy_ref)


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """Change keys of a JSON file in place; None removes a key."""

    def edit(path: Path, **changes: object) -> None:
        config = json.loads(path.read_text("utf-8")) | changes
        remaining = {key: value for key, value in config.items() if value is not None}
        path.write_text(json.dumps(remaining), "utf-8")

    return edit


@pytest.fixture
def edit_tensors() -> Callable[[Path, Callable[[dict[str, Tensor]], object]], None]:
    """Change a safetensors file in place."""

    def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return edit


@pytest.fixture
def make_adapter(original: BaseRef, tmp_path: Path) -> Callable[..., Path]:
    """Save an adapter as after training: no factor is zero."""

    def make(base: BaseRef = original, seed: int = 1, **changes: Any) -> Path:
        settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
        settings |= {"task_type": "CAUSAL_LM"} | changes
        manual_seed(seed)
        with quiet():
            model = get_peft_model(load_base(base).model, LoraConfig(**settings))
            for parameter in model.parameters():
                if parameter.requires_grad:
                    nn.init.normal_(parameter, std=0.2)
            folder = tmp_path / f"adapter-{seed}"
            model.save_pretrained(str(folder), save_embedding_layers=False)
        return folder

    return make
