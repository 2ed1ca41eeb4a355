"""Faults of a whole model: disabling, merging, unloading, saving, scaling, training, padding."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners import tuners_utils
from peft.tuners.lora import LoraModel, layer
from peft.utils import save_and_load

from tests.properties.planted_forward import set_scaling
from tests.properties.planting import Patch, after, fault, forward, plain

MODEL = "peft.model"


@fault("model_disabling_restores_the_base", MODEL)
def the_adapter_of_the_model_stays_enabled(patch: Patch) -> None:
    patch.setattr(peft.PeftModel, "disable_adapter", lambda self: nullcontext())


@fault("model_disabling_restores_the_base", MODEL)
def the_adapter_of_the_model_does_nothing(patch: Patch) -> None:
    forward(patch, lambda m, n, x: 0.0 * plain(m, n, x))


@fault("model_merged_output_matches_unmerged", MODEL)
def the_model_is_merged_without_its_scaling(patch: Patch) -> None:
    def change(delta: torch.Tensor, m: Any, name: str, *_: Any) -> torch.Tensor:
        return delta / m.scaling[name] * 1.001

    after(patch, layer.Linear, "get_delta_weight", change)


@fault("model_unloading_restores_the_base", MODEL)
def unloading_the_model_merges(patch: Patch) -> None:
    patch.setattr(LoraModel, "unload", LoraModel.merge_and_unload)


@fault("model_save_load_round_trip_is_exact", MODEL)
def the_model_is_saved_in_bfloat16(patch: Patch) -> None:
    def change(state: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        return {key: value.bfloat16().to(value.dtype) for key, value in state.items()}

    after(patch, peft.peft_model, "get_peft_model_state_dict", change)


@fault("model_save_load_round_trip_is_exact", MODEL)
def another_name_loads_nothing(patch: Patch) -> None:
    original = save_and_load.set_peft_model_state_dict

    def changed(model: Any, state: dict[str, Any], adapter_name: str = "default", **kw: Any) -> Any:
        return original(model, state if adapter_name == "default" else {}, adapter_name, **kw)

    patch.setattr(peft.peft_model, "set_peft_model_state_dict", changed)


@fault("model_save_load_round_trip_is_exact", MODEL)
def saving_again_gives_different_bytes(patch: Patch) -> None:
    def change(_: None, model: Any, folder: str, *args: Any, **kwargs: Any) -> None:
        for file in Path(folder).rglob("adapter_model.safetensors"):
            file.write_bytes(file.read_bytes() + folder.encode())

    after(patch, peft.PeftModel, "save_pretrained", change)


@fault("model_scalings_follow_the_patterns", MODEL)
def alpha_pattern_is_ignored(patch: Patch) -> None:
    set_scaling(patch, lambda m, name: 2.0)


@fault("model_scalings_follow_the_patterns", MODEL)
def every_scaling_is_slightly_too_large(patch: Patch) -> None:
    set_scaling(patch, lambda m, name: m.scaling[name] * (1 + 2.0**-40))


@fault("model_training_leaves_the_base_unchanged", MODEL)
def the_base_of_the_model_is_not_frozen(patch: Patch) -> None:
    patch.setattr(
        tuners_utils.BaseTuner, "_mark_only_adapters_as_trainable", lambda self, model: None
    )


@fault("model_output_is_invariant_to_padding", MODEL)
def the_update_is_an_average_over_the_batch(patch: Patch) -> None:
    forward(patch, lambda m, n, x: plain(m, n, x) - plain(m, n, x).mean((0, 1), keepdim=True))
