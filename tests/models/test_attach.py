"""An attached adapter is complete, and the base stays unchanged."""

import copy
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from phi3_lora_qa.errors import AdapterError, BaseModelError, IncompatibleLibraryError
from phi3_lora_qa.models import attach as attach_module
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
LAYER = "base_model.model.model.layers.0"
MakeAdapter = Callable[..., Path]
WriteBase = Callable[..., BaseRef]
EditConfig = Callable[..., None]
EditTensors = Callable[[Path, Callable[[dict[str, Tensor]], object]], None]


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model(IDS).logits)


def assert_refused(base: LoadedBase, adapter: Path, what: str) -> None:
    """Expect that the adapter is refused, and that the base stays unchanged."""
    before, tree = checksum(base.model), str(base.model)
    with pytest.raises(AdapterError, match=what) as error:
        attach(base.model, adapter)
    assert str(error.value).isprintable()
    assert (checksum(base.model), str(base.model)) == (before, tree)


def test_the_bases_logits_stay_the_same_bit_for_bit(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    before, identity, tree = logits(loaded.model), checksum(loaded.model), str(loaded.model)
    tuned = attach(loaded.model, make_adapter())
    assert not torch.equal(logits(tuned), before)
    assert torch.equal(logits(loaded.model), before)
    assert (checksum(loaded.model), str(loaded.model)) == (identity, tree)


def test_the_tuned_model_is_the_one_that_peft_loads(
    loaded: LoadedBase, toy_ref: BaseRef, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(use_rslora=True)
    with quiet():
        reference = PeftModel.from_pretrained(load_base(toy_ref).model, adapter)
    assert torch.equal(logits(attach(loaded.model, adapter)), logits(reference))


def test_storage_is_shared_and_parameters_are_not(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    tuned = attach(loaded.model, make_adapter())
    ours = {p.data_ptr(): p for p in loaded.model.parameters()}
    theirs = {p.data_ptr(): p for n, p in tuned.named_parameters() if "lora_" not in n}
    assert ours.keys() == theirs.keys()
    assert all(ours[pointer] is not theirs[pointer] for pointer in ours)


def test_the_tuned_model_is_ready_for_scoring(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    tuned = attach(loaded.model, make_adapter(lora_dropout=0.5))
    assert tuned.active_adapter == "default"
    assert not any(module.training for module in tuned.modules())
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    assert torch.equal(logits(tuned), logits(tuned))


def test_two_adapters_can_be_attached_to_one_base(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    first = attach(loaded.model, make_adapter(seed=1))
    before = logits(first)
    second = attach(loaded.model, make_adapter(seed=2))
    assert not torch.equal(logits(second), before)
    assert torch.equal(logits(first), before)


def test_with_the_adapter_disabled_the_copy_equals_the_base(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    tuned = attach(loaded.model, make_adapter())
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned), logits(loaded.model))
    assert checksum(tuned.unload()) == checksum(loaded.model)


def test_a_safe_merge_does_not_change_the_base(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    before = checksum(loaded.model)
    merged = attach(loaded.model, make_adapter()).merge_and_unload(safe_merge=True)
    assert checksum(merged) != before
    assert checksum(loaded.model) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["qkv_proj"], "layers_to_transform": [1]},
        {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 3}},
        {"target_modules": ["embed_tokens", "down_proj"]},
        {"trainable_token_indices": [3, 4]},
        {"init_lora_weights": "orthogonal"},
        {"lora_bias": True},
    ],
    ids="-".join,
)
def test_every_tensor_arrives_for_every_kind_of_lora(
    loaded: LoadedBase, toy_ref: BaseRef, make_adapter: MakeAdapter, settings: dict[str, Any]
) -> None:
    adapter = make_adapter(**settings)
    before = checksum(loaded.model)
    tuned = attach(loaded.model, adapter)
    with quiet():
        reference = PeftModel.from_pretrained(load_base(toy_ref).model, adapter)
    assert torch.equal(logits(tuned), logits(reference))
    assert checksum(loaded.model) == before


@pytest.mark.slow
@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_arrive_in_every_dtype(
    toy_ref: BaseRef,
    make_adapter: MakeAdapter,
    edit_tensors: EditTensors,
    saved: torch.dtype,
    dtype: str,
) -> None:
    adapter = make_adapter()
    weights = adapter / "adapter_model.safetensors"
    edit_tensors(weights, lambda t: t.update({name: x.to(saved) for name, x in t.items()}))
    tuned = attach(load_base(toy_ref, dtype).model, adapter)
    factor = tuned.get_parameter(f"{LAYER}.mlp.down_proj.lora_A.default.weight")
    assert torch.equal(factor, load_file(weights)[f"{LAYER}.mlp.down_proj.lora_A.weight"].float())


def test_a_nan_arrives_too_and_is_left_to_the_linter(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    adapter = make_adapter()
    edit_tensors(
        adapter / "adapter_model.safetensors",
        lambda t: t[f"{LAYER}.mlp.down_proj.lora_A.weight"].fill_(float("nan")),
    )
    assert logits(attach(loaded.model, adapter)).isnan().all()


def test_layers_with_llamas_names_are_refused_though_peft_ignores_them(
    loaded: LoadedBase, toy_ref: BaseRef, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    adapter = make_adapter()

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "qkv_proj" in name]:
            tensors[name.replace("qkv_proj", "q_proj")] = tensors.pop(name)

    edit_tensors(adapter / "adapter_model.safetensors", rename)
    with quiet():
        PeftModel.from_pretrained(load_base(toy_ref).model, adapter)
    assert_refused(
        loaded,
        adapter,
        rf"has 4 tensors for which .*{LAYER}.self_attn.q_proj.lora_A.*train qkv_proj",
    )


def test_a_missing_tensor_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    adapter, name = make_adapter(), f"{LAYER}.mlp.gate_up_proj.lora_B.weight"
    edit_tensors(adapter / "adapter_model.safetensors", lambda tensors: tensors.pop(name))
    assert_refused(
        loaded,
        adapter,
        rf"lacks 1 tensor that its config requires: {name}; save the whole adapter again$",
    )


def test_a_tensor_of_another_base_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    adapter, name = make_adapter(), f"{LAYER}.mlp.down_proj.lora_A.weight"
    edit_tensors(
        adapter / "adapter_model.safetensors", lambda t: t.update({name: torch.ones(4, 47)})
    )
    assert_refused(
        loaded,
        adapter,
        rf"1 tensor whose shape does not match .*{name} is \(4, 47\), not \(4, 48\)",
    )


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("base_model.model.lm_head.weight", "the base has no module under this config: "),
        ("base_model.model.model.norm.weight", "the base has no module under this config: "),
        (f"{LAYER}.self_attn.qkv_proj.weight", "the base has no module under this config: "),
        (f"{LAYER}.self_attn.qkv_proj.base_layer.weight", "replace model.layers.0.self_attn."),
        (
            "base_model.model.model.layers.9.base_layer.weight",
            "replace model.layers.9 of the base by another table",
        ),
    ],
)
def test_a_tensor_that_would_overwrite_the_base_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_tensors: EditTensors, key: str, what: str
) -> None:
    adapter = make_adapter()
    edit_tensors(
        adapter / "adapter_model.safetensors", lambda tensors: tensors.update({key: torch.ones(32)})
    )
    assert_refused(loaded, adapter, re.escape(what))


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga"])
def test_an_initialization_that_rewrites_the_base_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_config: EditConfig, init: str
) -> None:
    adapter = make_adapter()
    edit_config(adapter / "adapter_config.json", init_lora_weights=init, loftq_config={})
    assert_refused(
        loaded, adapter, r"cannot be attached to the base|would rewrite the base when it is loaded"
    )


def test_an_unknown_rewriting_initialization_is_found_after_loading(
    loaded: LoadedBase,
    make_adapter: MakeAdapter,
    edit_config: EditConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = make_adapter()
    edit_config(adapter / "adapter_config.json", init_lora_weights="pissa")
    monkeypatch.setattr(attach_module, "_SAFE_INITS", ("pissa",))
    assert_refused(
        loaded, adapter, r"replaced 8 tensors of the base: model.layers.0.*as plain LoRA$"
    )


@pytest.mark.parametrize(
    "change",
    [{"layer_replication": [[0, 2], [1, 2]]}, {"megatron_config": {"a": 1}}],
    ids=lambda change: next(iter(change)),
)
def test_a_config_that_rebuilds_the_base_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_config: EditConfig, change: dict[str, Any]
) -> None:
    adapter = make_adapter()
    edit_config(adapter / "adapter_config.json", **change)
    (field,) = change
    assert_refused(
        loaded,
        adapter,
        rf"would rebuild the base .*: it sets {field}; train it without {field}$",
    )


def test_a_bias_that_belongs_to_the_base_is_not_overwritten(
    loaded: LoadedBase,
    make_adapter: MakeAdapter,
    edit_config: EditConfig,
    edit_tensors: EditTensors,
) -> None:
    for layer in loaded.model.model.layers:
        layer.mlp.down_proj.bias = nn.Parameter(torch.zeros(32))
    adapter = make_adapter()
    edit_config(adapter / "adapter_config.json", bias="all")
    keys = [LAYER.replace("0", str(i)) + ".mlp.down_proj.base_layer.bias" for i in range(2)]
    edit_tensors(
        adapter / "adapter_model.safetensors",
        lambda t: t.update({key: torch.ones(32) for key in keys}),
    )
    assert_refused(
        loaded, adapter, r"would overwrite 2 tensors of the base: .*bias; train it with bias="
    )


def test_a_long_prompt_in_one_model_does_not_change_the_others_positions(
    tmp_path: Path, write_base: WriteBase, make_adapter: MakeAdapter
) -> None:
    """The 128k models change their rotary frequencies beyond the original context."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.5, 2.0, 3.0, 4.0]}
    base = load_base(
        write_base(
            tmp_path / "longrope",
            original_max_position_embeddings=16,
            rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0} | factors,
        )
    )
    tuned = attach(base.model, make_adapter(base.ref))
    short_base, short_tuned = logits(base.model), logits(tuned)
    with torch.inference_mode():
        tuned(IDS.repeat(1, 4))
        assert torch.equal(logits(base.model), short_base)
        base.model(IDS.repeat(1, 4))
    assert torch.equal(logits(tuned), short_tuned)
    assert torch.equal(logits(base.model), short_base)


def test_two_saved_values_for_one_tied_weight_are_refused(
    tmp_path: Path, write_base: WriteBase, make_adapter: MakeAdapter, edit_tensors: EditTensors
) -> None:
    base = load_base(write_base(tmp_path / "tied", tie_word_embeddings=True))
    adapter = make_adapter(base.ref, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    attach(base.model, adapter)
    edit_tensors(
        adapter / "adapter_model.safetensors",
        lambda t: t["base_model.model.lm_head.weight"].add_(1),
    )
    assert_refused(
        base, adapter, r"^1 tensor of .* did not arrive .* unchanged: .*embed_tokens.weight;"
    )


def test_another_kind_of_adapter_is_refused(loaded: LoadedBase, tmp_path: Path) -> None:
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["o_proj"], feedforward_modules=[])
    with quiet():
        get_peft_model(copy.deepcopy(loaded.model), config).save_pretrained(str(tmp_path))
    assert_refused(
        loaded, tmp_path, r"is not a LoRA adapter: its type is .*IA3; pass a LoRA adapter$"
    )


def test_an_adapter_for_another_task_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_config: EditConfig
) -> None:
    adapter = make_adapter()
    edit_config(adapter / "adapter_config.json", task_type="SEQ_CLS")
    assert_refused(
        loaded, adapter, r"is for another task: SEQ_CLS; pass one .* with task_type CAUSAL_LM$"
    )


def test_a_field_that_the_installed_peft_ignores_is_refused_with_pefts_version(
    loaded: LoadedBase, make_adapter: MakeAdapter, edit_config: EditConfig
) -> None:
    adapter = make_adapter()
    edit_config(adapter / "adapter_config.json", use_the_next_idea=True)
    with pytest.raises(IncompatibleLibraryError) as caught:
        attach(loaded.model, adapter)
    assert str(caught.value).startswith(f"peft {version('peft')} does not support a field of")
    assert ": use_the_next_idea; install" in str(caught.value)
    assert str(caught.value).endswith("pip install --upgrade peft")
    edit_config(adapter / "adapter_config.json", use_the_next_idea=False)
    attach(loaded.model, adapter)


def test_an_initialization_that_an_old_peft_lacks_is_not_the_adapters_fault(
    loaded: LoadedBase, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(init_lora_weights="mica")
    attach(loaded.model, adapter)
    monkeypatch.setattr(attach_module, "is_older", lambda library, than: than == "0.20")
    with pytest.raises(
        IncompatibleLibraryError, match=r"does not support .*: init_lora_weights to mica; install"
    ):
        attach(loaded.model, adapter)


def test_a_pickle_is_never_read(loaded: LoadedBase, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert_refused(loaded, adapter, r"has no adapter_model.safetensors; save .* as safetensors$")


def test_a_folder_without_a_config_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    (adapter / "adapter_config.json").unlink()
    assert_refused(
        loaded, adapter, r"has no adapter_config.json; save the adapter with save_pretrained"
    )
    assert_refused(loaded, tmp_path / "nowhere", r"has no adapter_config.json; save")


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": "NONE"}', '{"peft_type": []}'])
def test_a_damaged_config_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, text: str
) -> None:
    adapter = make_adapter()
    (adapter / "adapter_config.json").write_text(text)
    assert_refused(
        loaded, adapter, r"cannot be attached to the base: .*run phi3-lora-qa lint on it"
    )


def test_a_config_without_an_adapter_type_is_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter()
    (adapter / "adapter_config.json").write_text("{}")
    assert_refused(
        loaded, adapter, r"is not a LoRA adapter: its type is None; pass a LoRA adapter$"
    )


@pytest.mark.parametrize("keep", [0, 7, 200, -8])
def test_truncated_weights_are_refused(
    loaded: LoadedBase, make_adapter: MakeAdapter, keep: int
) -> None:
    weights = make_adapter() / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert_refused(
        loaded, weights.parent, r"cannot be attached to the base: .*run phi3-lora-qa lint on it"
    )


def test_a_base_with_peft_layers_is_refused(loaded: LoadedBase, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    tuned: Any = attach(loaded.model, adapter)
    with pytest.raises(BaseModelError, match=r"it has a PEFT layer .*call unload\(\)"):
        attach(tuned, adapter)
