"""Faults of disabling, and of several adapters in one layer."""

from typing import Any

import torch
from peft.tuners import tuners_utils
from peft.tuners.lora import layer
from peft.tuners.lora import model as lora_model

from tests.properties.planting import Patch, fault


@fault("disabling_restores_the_base")
def disabling_does_nothing(patch: Patch) -> None:
    patch.setattr(layer.Linear, "disable_adapters", property(lambda self: False))


@fault("disabling_while_merged_restores_the_base")
def disabling_keeps_the_merge(patch: Patch) -> None:
    original = layer.Linear.forward

    def changed(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters:
            found: torch.Tensor = self.base_layer(x)
            return found
        return original(self, x, *args, **kwargs)

    patch.setattr(layer.Linear, "forward", changed)


@fault("only_the_active_adapter_applies")
def the_first_adapter_stays_active(patch: Patch) -> None:
    patch.setattr(
        tuners_utils.BaseTunerLayer, "active_adapters", property(lambda self: ["default"])
    )


@fault("only_the_active_adapter_applies")
def every_adapter_is_active(patch: Patch) -> None:
    patch.setattr(
        tuners_utils.BaseTunerLayer, "active_adapters", property(lambda self: list(self.lora_A))
    )


@fault("active_adapters_are_summed")
def only_the_last_active_adapter_applies(patch: Patch) -> None:
    original = layer.Linear.forward

    def changed(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        before = self._active_adapter
        self._active_adapter = list(self.active_adapters)[-1:]
        try:
            return original(self, x, *args, **kwargs)
        finally:
            self._active_adapter = before

    patch.setattr(layer.Linear, "forward", changed)


@fault("mixed_batch_rows_match_separate_runs")
def mixed_batches_apply_an_adapter_to_the_base(patch: Patch) -> None:
    original = layer.LoraLayer._mixed_batch_forward

    def changed(self: Any, x: torch.Tensor, *args: Any, adapter_names: list[str], **kw: Any) -> Any:
        names = ["default" if name == "__base__" else name for name in adapter_names]
        return original(self, x, *args, adapter_names=names, **kw)

    patch.setattr(layer.LoraLayer, "_mixed_batch_forward", changed)


@fault("mixed_batch_rows_match_separate_runs")
def mixed_batches_reverse_the_names(patch: Patch) -> None:
    original = layer.LoraLayer._mixed_batch_forward

    def changed(self: Any, x: torch.Tensor, *args: Any, adapter_names: list[str], **kw: Any) -> Any:
        return original(self, x, *args, adapter_names=adapter_names[::-1], **kw)

    patch.setattr(layer.LoraLayer, "_mixed_batch_forward", changed)


@fault("cat_combination_equals_the_weighted_sum")
def cat_ignores_the_weights(patch: Patch) -> None:
    original = lora_model.LoraModel.add_weighted_adapter

    def changed(self: Any, adapters: Any, weights: Any, *args: Any, **kwargs: Any) -> None:
        ones = [1.0] * len(weights) if kwargs.get("combination_type") == "cat" else weights
        original(self, adapters, ones, *args, **kwargs)

    patch.setattr(lora_model.LoraModel, "add_weighted_adapter", changed)


@fault("svd_combination_is_optimal_for_its_rank")
def svd_drops_the_largest_singular_value(patch: Patch) -> None:
    original = torch.linalg.svd

    def changed(*args: Any, **kwargs: Any) -> Any:
        u, s, vh = original(*args, **kwargs)
        return u, torch.cat([torch.zeros_like(s[:1]), s[1:]]), vh

    patch.setattr(torch.linalg, "svd", changed)


@fault("linear_combination_mixes_the_factors")
def linear_combination_ignores_signs(patch: Patch) -> None:
    original = lora_model.LoraModel.add_weighted_adapter

    def changed(self: Any, adapters: Any, weights: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("combination_type") not in ("cat", "svd"):
            weights = [abs(weight) for weight in weights]
        original(self, adapters, weights, *args, **kwargs)

    patch.setattr(lora_model.LoraModel, "add_weighted_adapter", changed)
