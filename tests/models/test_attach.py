"""An attached adapter is the one that PEFT loads, and the base stays unchanged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef
from tests.models.builders import (
    IDS,
    MakeAdapter,
    WriteBase,
    assert_refused,
    logits,
)


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


def test_the_hooks_of_a_distributed_base_work_in_the_copy(
    loaded: LoadedBase, toy_ref: BaseRef, make_adapter: MakeAdapter
) -> None:
    from accelerate import dispatch_model

    adapter = make_adapter()
    expected = logits(attach(loaded.model, adapter))
    # As for several GPUs, with all layers on the CPU.
    base = load_base(toy_ref).model
    parts = ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")
    dispatch_model(base, dict.fromkeys(parts, "cpu"), force_hooks=True)
    tuned = attach(base, adapter)
    assert torch.equal(logits(tuned), expected)
    assert torch.equal(logits(base), logits(loaded.model))
    for path, module in tuned.get_base_model().named_modules():
        if hooked := getattr(module.forward, "args", None):
            assert hooked[0] is module, path


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
