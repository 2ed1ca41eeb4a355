"""A config that is not a plain LoRA, or that would rewrite the base, is refused."""

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, get_peft_model

from phi3_lora_qa.errors import IncompatibleLibraryError
from phi3_lora_qa.models import peft_config
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.quiet import quiet
from tests.models.builders import (
    EditConfig,
    MakeAdapter,
    assert_refused,
)


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
    monkeypatch.setattr(peft_config, "_SAFE_INITS", ("pissa",))
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
    monkeypatch.setattr(peft_config, "is_older", lambda library, than: than == "0.20")
    with pytest.raises(
        IncompatibleLibraryError, match=r"does not support .*: init_lora_weights to mica; install"
    ):
        attach(loaded.model, adapter)


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
