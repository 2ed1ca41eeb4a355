"""Faults of initialization, of training, and of saving and loading."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners import tuners_utils
from peft.tuners.lora import dora, layer
from peft.utils import save_and_load

from tests.properties.planting import Patch, after, fault, forward, plain


@fault("initial_output_equals_the_base")
def b_does_not_start_at_zero(patch: Patch) -> None:
    def change(_: None, m: Any, name: str, *args: Any) -> None:
        torch.nn.init.normal_(m.lora_B[name].weight)

    after(patch, layer.LoraLayer, "reset_lora_parameters", change)


@fault("initial_output_equals_the_base")
def both_factors_start_at_zero(patch: Patch) -> None:
    def change(_: None, m: Any, name: str, *args: Any) -> None:
        torch.nn.init.zeros_(m.lora_A[name].weight)

    after(patch, layer.LoraLayer, "reset_lora_parameters", change)


@fault("base_receives_no_gradient")
def the_base_is_not_frozen(patch: Patch) -> None:
    patch.setattr(
        tuners_utils.BaseTuner, "_mark_only_adapters_as_trainable", lambda self, model: None
    )


@fault("gradients_match_the_formulas")
def a_gets_no_gradient(patch: Patch) -> None:
    forward(patch, lambda m, n, x: m.lora_B[n](m.lora_A[n](x).detach()) * m.scaling[n])


@fault("initial_gradient_reaches_only_the_zero_factor")
def gradients_are_doubled(patch: Patch) -> None:
    def update(m: Any, n: str, x: torch.Tensor) -> torch.Tensor:
        y = plain(m, n, x)
        return 2 * y - y.detach()

    forward(patch, update)


@fault("gradients_match_the_formulas")
def the_bias_of_b_gets_no_gradient(patch: Patch) -> None:
    def update(m: Any, n: str, x: torch.Tensor) -> torch.Tensor:
        bias = m.lora_B[n].bias
        y = m.lora_A[n](x) @ m.lora_B[n].weight.T
        return (y if bias is None else y + bias.detach()) * m.scaling[n]

    forward(patch, update)


def _patch_dora_forward(patch: Patch, during: Callable[[Patch, Any], None]) -> None:
    """Run DoRA's forward pass with a temporary change."""
    original = dora.DoraLinearLayer.forward

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as meanwhile:
            during(meanwhile, self)
            return original(self, *args, **kwargs)

    patch.setattr(dora.DoraLinearLayer, "forward", changed)


def _nothing_is_detached(patch: Patch, _: Any) -> None:
    patch.setattr(torch.Tensor, "detach", lambda self: self)


def _the_magnitude_is_detached(patch: Patch, module: Any) -> None:
    patch.setitem(module._parameters, "weight", module.weight.detach())


@fault("gradients_match_the_formulas", "peft.dora")
def the_dora_norm_is_not_detached(patch: Patch) -> None:
    _patch_dora_forward(patch, _nothing_is_detached)


@fault("initial_gradient_reaches_only_the_zero_factor", "peft.dora")
def the_initial_dora_norm_is_not_detached(patch: Patch) -> None:
    _patch_dora_forward(patch, _nothing_is_detached)


@fault("gradients_match_the_formulas", "peft.dora")
def the_dora_magnitude_gets_no_gradient(patch: Patch) -> None:
    _patch_dora_forward(patch, _the_magnitude_is_detached)


@fault("initial_gradient_reaches_only_the_zero_factor", "peft.dora")
def the_dora_magnitude_is_frozen(patch: Patch) -> None:
    def change(_: None, m: Any, *args: Any, **kwargs: Any) -> None:
        m.lora_magnitude_vector.requires_grad_(False)

    after(patch, tuners_utils.BaseTunerLayer, "set_adapter", change)


@fault("save_load_round_trip_is_exact")
def saving_drops_b(patch: Patch) -> None:
    def change(state: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {key: value for key, value in state.items() if "lora_B" not in key}

    after(patch, __import__("peft.peft_model").peft_model, "get_peft_model_state_dict", change)


@fault("save_load_round_trip_is_exact")
def saving_rounds_to_bfloat16(patch: Patch) -> None:
    def change(state: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {key: value.bfloat16().to(value.dtype) for key, value in state.items()}

    after(patch, __import__("peft.peft_model").peft_model, "get_peft_model_state_dict", change)


@fault("save_load_round_trip_is_exact")
def loading_loads_nothing(patch: Patch) -> None:
    original = save_and_load.set_peft_model_state_dict

    def changed(model: Any, state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return original(model, {}, *args, **kwargs)

    patch.setattr(__import__("peft.peft_model").peft_model, "set_peft_model_state_dict", changed)


@fault("save_load_round_trip_is_exact")
def the_saved_config_lacks_rslora(patch: Patch) -> None:
    original = LoraConfig.to_dict

    def changed(self: Any) -> dict[str, Any]:
        return original(self) | {"use_rslora": False}

    patch.setattr(LoraConfig, "to_dict", changed)


@fault("save_load_round_trip_is_exact")
def the_saved_config_has_a_different_alpha(patch: Patch) -> None:
    original = LoraConfig.to_dict

    def changed(self: Any) -> dict[str, Any]:
        return original(self) | {"lora_alpha": self.lora_alpha * 2}

    patch.setattr(LoraConfig, "to_dict", changed)
