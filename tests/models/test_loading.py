"""A base loads from safetensors with Phi-3's own class, and a damaged one is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer as WordTokenizer
from tokenizers import models
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.loading import LoadedBase, load_base, weight_files
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef, resolve_base

IDS = torch.tensor([[5, 6, 7, 8]])
EditConfig = Callable[..., None]
EditTensors = Callable[[Path, Callable[[dict[str, Tensor]], object]], None]


def assert_refused(folder: Path, pattern: str) -> None:
    with pytest.raises(BaseModelError, match=pattern) as error:
        load_base(resolve_base(str(folder)))
    assert str(error.value).isprintable()


def test_a_loaded_base_is_ready_for_scoring(loaded: LoadedBase) -> None:
    model = loaded.model
    assert not model.training
    assert (model.config._attn_implementation, model.config.use_cache) == ("sdpa", True)
    assert loaded.tokenizer("w1 w2")["input_ids"] == [4, 5]
    assert model(IDS).logits.shape == (1, 4, 64)


def test_tiny_loads_and_stops_on_phi3s_stop_tokens() -> None:
    base = load_base(resolve_base("tiny"))
    stops = base.model.generation_config.eos_token_id
    assert "<|end|>" in base.tokenizer.convert_ids_to_tokens(stops)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        ("auto", torch.float32),
    ],
)
def test_the_weights_have_the_requested_dtype(
    toy_ref: BaseRef, dtype: str, expected: torch.dtype
) -> None:
    assert {p.dtype for p in load_base(toy_ref, dtype).model.parameters()} == {expected}


def test_an_unknown_dtype_is_refused(toy_ref: BaseRef) -> None:
    with pytest.raises(BaseModelError, match=r"dtype is unknown: 'int3'; use one of float32, "):
        load_base(toy_ref, "int3")


def test_code_in_the_folder_is_not_run(toy: Path, edit_config: EditConfig) -> None:
    marker = toy / "was-run"
    for name in ("modeling_evil", "tokenization_evil"):
        (toy / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    auto_map = {"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    edit_config(toy / "config.json", auto_map=auto_map)
    edit_config(
        toy / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]},
    )
    base = load_base(resolve_base(str(toy)))
    assert type(base.model) is Phi3ForCausalLM
    assert base.tokenizer("w1")["input_ids"] == [4]
    assert not marker.exists()


def test_a_pickle_is_never_read(toy: Path) -> None:
    (toy / "model.safetensors").unlink()
    torch.save({}, toy / "pytorch_model.bin")
    assert_refused(
        toy, r"weights in a pickle, which can run code .*; save it again as safetensors$"
    )


def test_missing_files_are_named(toy: Path) -> None:
    (toy / "tokenizer.json").rename(toy / "elsewhere")
    assert_refused(toy, r"has no tokenizer \(tokenizer.json or tokenizer.model\); save one")
    (toy / "elsewhere").rename(toy / "tokenizer.json")
    (toy / "model.safetensors").unlink()
    assert_refused(toy, r"has no model.safetensors; download it again$")


def test_another_architecture_is_refused_before_anything_is_loaded(toy: Path) -> None:
    LlamaConfig().save_pretrained(toy)
    assert_refused(toy, r"embed_tokens is 32000x4096 in config.json and 64x32 in the weights; use")
    LlamaConfig(hidden_size=32, vocab_size=64, intermediate_size=48).save_pretrained(toy)
    assert_refused(toy, r"the weights have no model.layers.0.self_attn.q_proj; use a base whose")
    GPT2Config().save_pretrained(toy)
    assert_refused(toy, r"is not a Phi-3: its model type is 'gpt2'; pass the folder of a Phi-3")


def test_a_missing_weight_is_not_initialized_randomly(toy: Path, edit_tensors: EditTensors) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    edit_tensors(toy / "model.safetensors", lambda tensors: tensors.pop(name))
    assert_refused(toy, rf"lack {name}; use a base whose config.json matches its weights$")


def test_weights_that_the_config_does_not_describe_are_refused(
    toy: Path, edit_tensors: EditTensors
) -> None:
    further = {f"model.layers.1.mlp.experts_{n}.weight": torch.zeros(2, 2) for n in range(4)}
    edit_tensors(toy / "model.safetensors", lambda tensors: tensors.update(further))
    assert_refused(
        toy, r"contain the unknown model.layers.1..* and 1 more; use a base whose config.json"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"intermediate_size": 40}, r"gate_up_proj is 80x32 in config.json and 96x32 in the"),
        ({"num_attention_heads": 5}, r"qkv_proj is 54x32 in config.json and 64x32 in the"),
        ({"num_hidden_layers": 1}, r"config.json has 1 layers, and the weights have 2"),
        ({"hidden_size": "many"}, r"config.json is not valid: hidden_size is 'many'"),
    ],
)
def test_a_config_with_other_shapes_is_refused(
    toy: Path, edit_config: EditConfig, change: dict[str, object], reason: str
) -> None:
    edit_config(toy / "config.json", **change)
    assert_refused(toy, rf"weights of .* do not match its config.json: .*{reason}.*; use a base")


def test_truncated_weights_are_refused(toy: Path) -> None:
    whole = (toy / "model.safetensors").read_bytes()
    (toy / "model.safetensors").write_bytes(whole[:-100])
    assert_refused(toy, r"cannot load the base from .*: .*; download it again$")


def test_a_tokenizer_of_another_base_is_refused(toy: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(toy)
    tokenizer.add_tokens(["one", "two"])
    tokenizer.save_pretrained(toy)
    assert_refused(toy, r"has 65 tokens, the model has 64; use a base with its own tokenizer$")


def test_shards_load_like_one_file_and_a_missing_one_is_named(toy: Path, tmp_path: Path) -> None:
    whole = load_base(resolve_base(str(toy))).model
    (toy / "model.safetensors").unlink()
    with quiet():
        whole.save_pretrained(toy, max_shard_size="20KB")
    shards = weight_files(toy)
    assert len(shards) > 1
    assert torch.equal(load_base(resolve_base(str(toy))).model(IDS).logits, whole(IDS).logits)
    shards[1].unlink()
    assert_refused(toy, rf"lacks its shard {shards[1].name}; download it again$")


@pytest.mark.parametrize(
    ("index", "pattern"),
    [
        ("{", r"index\.json .*JSON"),
        ("[]", r"index\.json .*JSON object"),
        ('{"weight_map": []}', r"index\.json .*must list weight files in the same folder"),
        ('{"weight_map": {"a": 1}}', r"index\.json .*must list weight files in the same folder"),
        ('{"weight_map": {"a": ".."}}', r"lacks its shard \.\.; download it again$"),
    ],
)
def test_a_damaged_index_is_refused(toy: Path, index: str, pattern: str) -> None:
    (toy / "model.safetensors").unlink()
    (toy / "model.safetensors.index.json").write_text(index)
    assert_refused(toy, pattern)


@pytest.mark.parametrize("prefix", ["shards/", "./", "../toy/", "/"])
def test_an_index_that_names_a_path_is_refused_when_loading_and_when_linting(
    toy: Path, prefix: str
) -> None:
    """The loader dropped the folder, and read another file than the one that is named."""
    (toy / "model.safetensors").rename(toy / "one.safetensors")
    index = {"weight_map": {"lm_head.weight": f"{prefix}one.safetensors"}}
    (toy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        BaseModelError, match=r"index\.json .*must list weight files in the same folder"
    ):
        weight_files(toy)
    with pytest.raises(
        BaseModelError, match=r"index\.json .*must list weight files in the same folder"
    ):
        BaseFiles.open(toy)
    assert_refused(toy, r"index\.json .*must list weight files in the same folder")


def test_a_hub_base_that_cannot_be_downloaded_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match=r"cannot download .*Phi-3-mini-4k.*pass its folder$"):
        load_base(resolve_base("phi3-mini-4k"))


def published_config(layers: int = 32) -> Phi3Config:
    """Return the config of Phi-3-mini-4k-instruct as published, except for the number of layers."""
    return Phi3Config(
        num_hidden_layers=layers,
        num_key_value_heads=32,
        sliding_window=2047,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=1,
    )


def test_phi3_mini_has_the_module_shapes_that_this_package_relies_on() -> None:
    with torch.device("meta"):
        model = Phi3ForCausalLM(published_config())
    linears = {
        name.split(".", 3)[-1]: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert linears == {
        "self_attn.qkv_proj": (9216, 3072),
        "self_attn.o_proj": (3072, 3072),
        "mlp.gate_up_proj": (16384, 3072),
        "mlp.down_proj": (3072, 8192),
        "lm_head": (32064, 3072),
    }
    assert sum(p.numel() for p in model.parameters()) == 3_821_079_552
    with quiet(), torch.device("meta"):
        tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == 25_165_824


@pytest.mark.slow
def test_a_layer_of_phi3_mini_loads_at_full_width_and_takes_an_adapter(tmp_path: Path) -> None:
    """One layer and the full vocabulary: 0.6 GB on disk and, in bfloat16, in memory."""
    config = published_config(layers=1)
    with quiet():
        with torch.device("meta"):
            model = Phi3ForCausalLM(config).bfloat16()
        model = model.to_empty(device="cpu")
        for parameter in model.parameters():  # fast, and all rows differ
            flat = parameter.data.view(-1)
            flat.copy_(
                torch.linspace(-0.02, 0.02, 997).repeat(flat.numel() // 997 + 1)[: len(flat)]
            )
        model.save_pretrained(tmp_path)
        del model
        write_full_width_tokenizer(tmp_path)
        base = load_base(resolve_base(str(tmp_path)), "bfloat16")
        assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
        before = base.model(IDS).logits
        assert before.shape == (1, 4, 32064)
        adapter = write_full_width_adapter(config, tmp_path / "adapter")
    tuned = attach(base.model, adapter)
    assert sum(p.numel() for n, p in tuned.named_parameters() if "lora_" in n) == 786_432
    assert torch.equal(base.model(IDS).logits, before)
    assert not torch.equal(tuned(IDS).logits, before)


def write_full_width_tokenizer(folder: Path) -> None:
    vocabulary = {f"w{number}": number for number in range(100)}
    PreTrainedTokenizerFast(
        tokenizer_object=WordTokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    ).save_pretrained(folder)


def write_full_width_adapter(config: Phi3Config, folder: Path) -> Path:
    settings = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    settings.save_pretrained(str(folder))
    shapes = {
        "self_attn.qkv_proj": (3072, 9216),
        "self_attn.o_proj": (3072, 3072),
        "mlp.gate_up_proj": (3072, 16384),
        "mlp.down_proj": (8192, 3072),
    }
    tensors = {}
    for name, (inputs, outputs) in shapes.items():
        prefix = f"base_model.model.model.layers.0.{name}"
        tensors[f"{prefix}.lora_A.weight"] = torch.full((16, inputs), 0.01)
        tensors[f"{prefix}.lora_B.weight"] = torch.full((outputs, 16), 0.01)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
