"""The checks on saving and loading fail on their faults, and name the round trip.

Faults are planted in peft, transformers and safetensors. That healthy adapters of every kind pass
is tested in scenarios/test_variants.py.
"""

from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.gate.checks import round_trips
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base
from tests.gate.builders import MakeSession, attached, fails, passes
from tests.variants import VARIANTS, train

pytestmark = pytest.mark.slow

DOWN = "base_model.model.model.layers.0.mlp.down_proj"


def test_every_round_trip_passes_on_the_good_adapter_and_says_what_it_covered(
    make_session: MakeSession,
) -> None:
    session = make_session()
    said = [passes(check.run, session) for check in round_trips.checks()]
    for words, message in zip(
        (
            "value for value from adapter_model.safetensors and adapter_model.bin",
            "the same adapter_config.json",
            "from the folder first/",
            "(first/, second/)",
            "load_adapter gives the same 32 tensors and logits, bit for bit",
        ),
        said,
        strict=True,
    ):
        assert words in message


def test_a_tensor_that_changes_when_saved_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.peft_model

    real: Any = vars(peft.peft_model)["get_peft_model_state_dict"]

    def rounded(*args: Any, **kwargs: Any) -> Any:
        return {n: t.bfloat16().float() for n, t in real(*args, **kwargs).items()}

    session = attached(make_session())
    monkeypatch.setattr(peft.peft_model, "get_peft_model_state_dict", rounded)
    outcome = fails(round_trips.saved_and_loaded_is_bit_exact, session)
    assert outcome.message.startswith("saving adapter_model.safetensors changes base_model.")
    assert 0 < outcome.measured["difference"] < 0.01


def test_a_tensor_that_changes_in_the_pickle_alone_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    real = torch.save
    monkeypatch.setattr(
        torch, "save", lambda state, f: real({n: t.half() for n, t in state.items()}, f)
    )
    outcome = fails(round_trips.saved_and_loaded_is_bit_exact, make_session())
    assert outcome.message.startswith("saving adapter_model.bin changes base_model.")


def test_a_tensor_that_the_pickle_lacks_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    real = torch.save
    name = f"{DOWN}.lora_B.weight"
    monkeypatch.setattr(
        torch, "save", lambda state, f: real({n: t for n, t in state.items() if n != name}, f)
    )
    outcome = fails(round_trips.saved_and_loaded_is_bit_exact, make_session())
    assert outcome.message == f"saving adapter_model.bin loses {name} (1 lost, 0 added)"


def test_metadata_that_differ_at_each_save_are_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.peft_model

    real: Any = vars(peft.peft_model)["safe_save_file"]
    count = iter(range(9))
    monkeypatch.setattr(
        peft.peft_model,
        "safe_save_file",
        lambda tensors, path, metadata: real(tensors, path, {**metadata, "n": str(next(count))}),
    )
    outcome = fails(round_trips.saving_again_is_byte_stable, make_session())
    assert "changes the header of adapter_model.safetensors" in outcome.message


def test_a_setting_that_changes_when_it_is_saved_again_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig

    real, count = LoraConfig.to_dict, iter(range(99))
    monkeypatch.setattr(
        LoraConfig, "to_dict", lambda self: {**real(self), "lora_dropout": next(count) / 100}
    )
    outcome = fails(round_trips.saving_again_is_byte_stable, make_session())
    assert "changes lora_dropout in adapter_config.json from 0.0" in outcome.message


def test_values_that_change_when_they_are_loaded_are_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.peft_model

    real: Any = vars(peft.peft_model)["set_peft_model_state_dict"]

    def halved(model: Any, tensors: Any, **options: Any) -> Any:
        return real(model, {name: tensor / 2 for name, tensor in tensors.items()}, **options)

    session = attached(make_session())
    monkeypatch.setattr(peft.peft_model, "set_peft_model_state_dict", halved)
    outcome = fails(round_trips.saving_again_is_byte_stable, session)
    assert outcome.message.startswith("saving, loading and saving again fails (AdapterError: ")
    assert "changed when it was loaded" in outcome.message


def test_a_scaling_that_depends_on_the_adapters_name_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    real = lora_linear.update_layer

    def update_layer(self: Any, name: str, *args: Any, **options: Any) -> None:
        real(self, name, *args, **options)
        if name != "default":
            self.scaling[name] *= 2

    monkeypatch.setattr(lora_linear, "update_layer", update_layer)
    outcome = fails(round_trips.another_name_changes_nothing, make_session())
    assert outcome.message.startswith("loading it under the name 'first' changes the logits")
    assert outcome.measured["difference"] > 0


def test_a_missing_folder_of_a_named_adapter_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.peft_model

    session = attached(make_session())
    real: Any = vars(peft.peft_model)["safe_save_file"]
    monkeypatch.setattr(
        peft.peft_model,
        "safe_save_file",
        lambda tensors, path, metadata: real(tensors, path.replace("/first/", "/"), metadata),
    )
    outcome = fails(round_trips.another_name_changes_nothing, session)
    assert outcome.message.startswith("loading it with subfolder='first' fails (")


def test_a_second_adapter_that_makes_itself_active_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    real = PeftModel.load_adapter

    def load_adapter(self: Any, folder: str, name: str, **options: Any) -> Any:
        loaded = real(self, folder, name, **options)
        self.set_adapter(name)
        return loaded

    monkeypatch.setattr(PeftModel, "load_adapter", load_adapter)
    outcome = fails(round_trips.two_adapters_are_kept_apart, make_session())
    assert outcome.message.startswith("adding a second adapter changes the logits")


def test_a_second_adapter_that_is_written_over_the_first_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.peft_model

    real: Any = vars(peft.peft_model)["set_peft_model_state_dict"]

    def both(model: Any, tensors: Any, *, adapter_name: str, **options: Any) -> Any:
        for name in model.peft_config:
            loaded = real(model, tensors, adapter_name=name, **options)
        return loaded

    monkeypatch.setattr(peft.peft_model, "set_peft_model_state_dict", both)
    outcome = fails(round_trips.two_adapters_are_kept_apart, make_session())
    assert outcome.message.startswith("adding a second adapter changes base_model.")


def test_two_adapters_that_are_saved_as_one_are_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft.peft_model

    real: Any = vars(peft.peft_model)["get_peft_model_state_dict"]

    def first_of_all(model: Any, *, adapter_name: str, **options: Any) -> Any:
        return real(model, adapter_name=next(iter(model.peft_config)), **options)

    monkeypatch.setattr(peft.peft_model, "get_peft_model_state_dict", first_of_all)
    outcome = fails(round_trips.two_adapters_are_kept_apart, make_session())
    assert outcome.message.startswith("loading it with subfolder='second' changes base_model.")


def test_where_peft_takes_one_adapter_only_two_are_not_applicable(
    make_session: MakeSession, tmp_path: Path
) -> None:
    train(load_base(resolve_base("tiny")).model, tmp_path / "adapter", **VARIANTS["bias_all"])
    session = make_session(tmp_path / "adapter")
    message = passes(round_trips.two_adapters_are_kept_apart, session)
    assert message == "not applicable: with bias='all' PEFT takes one adapter only"


def test_a_tensor_that_transformers_loads_changed_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import core_model_loading

    real: Any = core_model_loading.set_param_for_module

    def halved(model: Any, name: str, value: Any, *args: Any) -> None:
        real(model, name, value / 2 if name.endswith("lora_B.default.weight") else value, *args)

    session = attached(make_session())
    monkeypatch.setattr(core_model_loading, "set_param_for_module", halved)
    outcome = fails(round_trips.transformers_loads_the_same, session)
    assert "load_adapter changes base_model.model.model.layers." in outcome.message


def test_another_scaling_that_transformers_loads_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    real = peft.inject_adapter_in_model

    def inject(config: Any, model: Any, name: str) -> Any:
        config.lora_alpha *= 2
        return real(config, model, name)

    session = attached(make_session())
    monkeypatch.setattr(peft, "inject_adapter_in_model", inject)
    outcome = fails(round_trips.transformers_loads_the_same, session)
    assert "load_adapter changes the logits" in outcome.message


def test_an_adapter_that_transformers_cannot_load_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    session = attached(make_session())
    monkeypatch.delattr(peft, "inject_adapter_in_model")
    outcome = fails(round_trips.transformers_loads_the_same, session)
    assert "load_adapter fails (ImportError" in outcome.message


def test_magnitudes_that_transformers_loses_are_reported_and_do_not_fail_the_adapter(
    make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import core_model_loading

    train(load_base(resolve_base("tiny")).model, tmp_path / "adapter", use_dora=True)
    session = make_session(tmp_path / "adapter")
    message = passes(round_trips.transformers_loads_the_same, session)
    assert "loses 16 of DoRA's magnitudes" in message
    assert message.endswith("peft.PeftModel.from_pretrained, which keeps it as saved")
    real: Any = core_model_loading.set_param_for_module
    monkeypatch.setattr(
        core_model_loading,
        "set_param_for_module",
        lambda model, name, value, *args: real(model, name, -value, *args),
    )
    assert "changes " in fails(round_trips.transformers_loads_the_same, session).message


def test_on_a_base_of_low_precision_what_transformers_loads_is_the_rounded_adapter(
    make_session: MakeSession,
) -> None:
    message = passes(round_trips.transformers_loads_the_same, make_session(dtype="bfloat16"))
    assert message.endswith("the same 32 tensors, rounded to the base's dtype")


def test_a_whole_module_is_compared_in_the_dtype_of_the_base(
    make_session: MakeSession, tmp_path: Path
) -> None:
    train(load_base(resolve_base("tiny")).model, tmp_path / "adapter", modules_to_save=["lm_head"])
    session = make_session(tmp_path / "adapter", dtype="bfloat16")
    assert "value for value" in passes(round_trips.saved_and_loaded_is_bit_exact, session)
