"""Faults planted into PEFT's own methods: each is one slip that a release could have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners import tuners_utils
from peft.tuners.lora import dora, layer, variants
from peft.tuners.lora import model as lora_model
from peft.utils import save_and_load

Patch = pytest.MonkeyPatch
Update = Callable[[Any, str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Fault:
    """A fault, the kind of layer that has it, and a property that it must break."""

    kind: str
    breaks: str
    plant: Callable[[Patch], object]


FAULTS: dict[str, Fault] = {}


def fault(
    breaks: str, kind: str = "peft.linear"
) -> Callable[[Callable[[Patch], object]], Callable[[Patch], object]]:
    def keep(plant: Callable[[Patch], object]) -> Callable[[Patch], object]:
        FAULTS[plant.__name__] = Fault(kind, breaks, plant)
        return plant

    return keep


def after(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Let a method's result go through ``change(result, *arguments)``."""
    original = getattr(owner, name)
    static = isinstance(owner.__dict__.get(name), staticmethod)

    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(original(*args, **kwargs), *args, **kwargs)

    patch.setattr(owner, name, staticmethod(changed) if static else changed)


def set_scaling(patch: Patch, wrong: Callable[[Any, str], float]) -> None:
    def change(_: None, module: Any, name: str, *args: Any, **kwargs: Any) -> None:
        module.scaling[name] = wrong(module, name)

    after(patch, layer.LoraLayer, "update_layer", change)


def forward(patch: Patch, update: Update) -> None:
    """Replace the forward pass of linear layers by the base and these updates."""
    original = layer.Linear.forward

    def changed(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters or self.merged or kwargs.get("adapter_names"):
            return original(self, x, *args, **kwargs)
        y = self.base_layer(x)
        for name in self.active_adapters:
            y = y + update(self, name, x.to(self.lora_A[name].weight.dtype))
        return y.to(self.base_layer.weight.dtype)

    patch.setattr(layer.Linear, "forward", changed)


def plain(self: Any, name: str, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
    return found


# Scaling


@fault("delta_is_scaling_times_b_times_a")
def alpha_and_rank_swapped(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: m.r[n] / m.lora_alpha[n])


@fault("delta_is_scaling_times_b_times_a")
def scaling_is_alpha(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: m.lora_alpha[n])


@fault("delta_is_scaling_times_b_times_a")
def rslora_is_forgotten(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: m.lora_alpha[n] / m.r[n])


@fault("delta_is_linear_in_the_scaling")
def rslora_is_used_always(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: m.lora_alpha[n] / m.r[n] ** 0.5)


@fault("delta_is_scaling_times_b_times_a")
def scaling_is_a_whole_number(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: float(max(1, m.lora_alpha[n] // m.r[n])))


@fault("delta_is_linear_in_the_scaling")
def set_scale_adds_up(patch: Patch) -> None:
    def wrong(self: Any, adapter: str, scale: float) -> None:
        self.scaling[adapter] *= scale

    patch.setattr(layer.LoraLayer, "set_scale", wrong)


# Forward


@fault("forward_adds_the_delta")
def forward_scales_twice(patch: Patch) -> None:
    forward(patch, lambda m, n, x: plain(m, n, x) * m.scaling[n])


@fault("forward_adds_the_delta")
def forward_does_not_scale(patch: Patch) -> None:
    forward(patch, lambda m, n, x: m.lora_B[n](m.lora_A[n](x)))


@fault("forward_adds_the_delta")
def forward_scales_the_input_of_a_bias_only(patch: Patch) -> None:
    forward(patch, lambda m, n, x: m.lora_B[n](m.lora_A[n](x) * m.scaling[n]))


@fault("forward_adds_the_delta")
def forward_drops_the_bias_of_b(patch: Patch) -> None:
    forward(patch, lambda m, n, x: (m.lora_A[n](x) @ m.lora_B[n].weight.T) * m.scaling[n])


@fault("forward_adds_the_delta")
def forward_adds_the_update_twice(patch: Patch) -> None:
    forward(patch, lambda m, n, x: 2 * plain(m, n, x))


@fault("forward_adds_the_delta")
def forward_flips_the_ranks_of_b(patch: Patch) -> None:
    forward(
        patch,
        lambda m, n, x: (m.lora_A[n](x) @ m.lora_B[n].weight.flip(1).T) * m.scaling[n],
    )


@fault("forward_adds_the_delta")
def forward_mixes_the_rows_of_a_batch(patch: Patch) -> None:
    forward(patch, lambda m, n, x: plain(m, n, x).flip(0))


@fault("forward_adds_the_delta")
def forward_normalises_over_the_batch(patch: Patch) -> None:
    forward(patch, lambda m, n, x: plain(m, n, x - x.mean(0)))


@fault("forward_adds_the_delta")
def forward_computes_in_bfloat16(patch: Patch) -> None:
    forward(patch, lambda m, n, x: plain(m, n, x).to(torch.bfloat16))


@fault("dropout_ends_with_training")
def dropout_is_left_on(patch: Patch) -> None:
    def update(m: Any, n: str, x: torch.Tensor) -> torch.Tensor:
        rate = getattr(m.lora_dropout[n], "p", 0.0)
        return plain(m, n, torch.nn.functional.dropout(x, rate, training=True))

    forward(patch, update)


@fault("dropout_acts_in_training")
def dropout_is_forgotten(patch: Patch) -> None:
    forward(patch, plain)


@fault("output_has_the_dtype_of_the_base", "peft.mixed_dtypes")
def output_stays_in_float32(patch: Patch) -> None:
    after(patch, layer.Linear, "forward", lambda y, *args, **kwargs: y.float())


# Delta and merge


@fault("delta_is_scaling_times_b_times_a")
def delta_scales_twice(patch: Patch) -> None:
    after(patch, layer.Linear, "get_delta_weight", lambda d, m, n: d * m.scaling[n])


@fault("delta_is_scaling_times_b_times_a")
def delta_is_transposed_where_it_fits(patch: Patch) -> None:
    after(
        patch,
        layer.Linear,
        "get_delta_weight",
        lambda d, *_: d.T if d.shape[0] == d.shape[1] else d,
    )


@fault("delta_is_scaling_times_b_times_a")
def delta_has_its_last_row_missing(patch: Patch) -> None:
    def change(d: torch.Tensor, *_: Any) -> torch.Tensor:
        d[-1] = 0
        return d

    after(patch, layer.Linear, "get_delta_weight", change)


@fault("delta_is_scaling_times_b_times_a")
def delta_is_rounded_to_bfloat16(patch: Patch) -> None:
    after(patch, layer.Linear, "get_delta_weight", lambda d, *_: d.bfloat16().to(d.dtype))


@fault("delta_is_scaling_times_b_times_a")
def delta_has_a_higher_rank(patch: Patch) -> None:
    after(
        patch,
        layer.Linear,
        "get_delta_weight",
        lambda d, *_: d + 1e-3 * torch.eye(*d.shape, dtype=d.dtype) * d.abs().max(),
    )


@fault("merging_both_adds_both")
def merge_does_not_scale(patch: Patch) -> None:
    def change(_: None, m: Any, *args: Any, **kwargs: Any) -> None:
        for name in m.merged_adapters:
            delta = m.get_delta_weight(name)
            m.get_base_layer().weight.data += delta / m.scaling[name] - delta

    after(patch, layer.Linear, "merge", change)


@fault("merging_twice_adds_it_once")
def merge_does_it_again_when_merged(patch: Patch) -> None:
    patch.setattr(
        layer, "check_adapters_to_merge", lambda m, names=None: names or m.active_adapters
    )


@fault("merging_both_adds_both")
def merge_takes_the_first_adapter_only(patch: Patch) -> None:
    original = tuners_utils.check_adapters_to_merge
    patch.setattr(layer, "check_adapters_to_merge", lambda m, names=None: original(m, names)[:1])


@fault("merging_both_adds_both", "peft.safe_merge")
def safe_merge_forgets_to_write(patch: Patch) -> None:
    original = layer.Linear.merge

    def changed(self: Any, safe_merge: bool = False, adapter_names: Any = None) -> None:
        before = self.get_base_layer().weight.data.clone()
        original(self, safe_merge, adapter_names)
        if safe_merge:
            self.get_base_layer().weight.data = before

    patch.setattr(layer.Linear, "merge", changed)


@fault("merged_it_puts_out_the_same")
def merge_forgets_the_bias_of_b(patch: Patch) -> None:
    original = layer.Linear.merge

    def changed(self: Any, *args: Any, **kwargs: Any) -> None:
        bias = self.get_base_layer().bias
        before = None if bias is None else bias.data.clone()
        original(self, *args, **kwargs)
        if before is not None:
            bias.data = before

    patch.setattr(layer.Linear, "merge", changed)


@fault("merging_both_adds_both")
def unmerge_adds_again(patch: Patch) -> None:
    def change(_: None, m: Any) -> None:
        m.get_base_layer().weight.data += 2 * m.get_delta_weight("default")

    after(patch, layer.Linear, "unmerge", change)


@fault("merging_both_adds_both")
def unmerge_leaves_the_weight(patch: Patch) -> None:
    patch.setattr(layer.Linear, "unmerge", lambda self: self.merged_adapters.clear())


@fault("switched_off_while_merged_it_is_the_base")
def unmerge_leaves_the_bias(patch: Patch) -> None:
    original = layer.Linear.unmerge

    def changed(self: Any) -> None:
        bias = self.get_base_layer().bias
        before = None if bias is None else bias.data.clone()
        original(self)
        if before is not None:
            bias.data = before

    patch.setattr(layer.Linear, "unmerge", changed)


@fault("unmerging_restores_the_weight")
def every_cycle_of_merging_drifts(patch: Patch) -> None:
    def change(_: None, m: Any) -> None:
        m.get_base_layer().weight.data *= 1 + 2.0**-22

    after(patch, layer.Linear, "unmerge", change)


@fault("delta_is_scaling_times_b_times_a", "peft.fan_in_fan_out")
def fan_in_fan_out_is_forgotten_in_the_delta(patch: Patch) -> None:
    after(patch, layer.Linear, "get_delta_weight", lambda d, *_: d.T)


# Switching, several adapters


@fault("switched_off_it_is_the_base")
def switching_off_does_nothing(patch: Patch) -> None:
    patch.setattr(layer.Linear, "disable_adapters", property(lambda self: False))


@fault("switched_off_while_merged_it_is_the_base")
def switching_off_leaves_it_merged(patch: Patch) -> None:
    original = layer.Linear.forward

    def changed(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters:
            found: torch.Tensor = self.base_layer(x)
            return found
        return original(self, x, *args, **kwargs)

    patch.setattr(layer.Linear, "forward", changed)


@fault("only_the_active_adapter_acts")
def the_first_adapter_stays_active(patch: Patch) -> None:
    patch.setattr(
        tuners_utils.BaseTunerLayer, "active_adapters", property(lambda self: ["default"])
    )


@fault("only_the_active_adapter_acts")
def every_adapter_is_active(patch: Patch) -> None:
    patch.setattr(
        tuners_utils.BaseTunerLayer, "active_adapters", property(lambda self: list(self.lora_A))
    )


@fault("active_adapters_add_up")
def only_the_last_active_adapter_counts(patch: Patch) -> None:
    original = layer.Linear.forward

    def changed(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        before = self._active_adapter
        self._active_adapter = list(self.active_adapters)[-1:]
        try:
            return original(self, x, *args, **kwargs)
        finally:
            self._active_adapter = before

    patch.setattr(layer.Linear, "forward", changed)


@fault("rows_of_a_mixed_batch_are_separate_runs")
def mixed_batches_give_the_base_an_adapter(patch: Patch) -> None:
    original = layer.LoraLayer._mixed_batch_forward

    def changed(self: Any, x: torch.Tensor, *args: Any, adapter_names: list[str], **kw: Any) -> Any:
        names = ["default" if name == "__base__" else name for name in adapter_names]
        return original(self, x, *args, adapter_names=names, **kw)

    patch.setattr(layer.LoraLayer, "_mixed_batch_forward", changed)


@fault("rows_of_a_mixed_batch_are_separate_runs")
def mixed_batches_turn_the_names_round(patch: Patch) -> None:
    original = layer.LoraLayer._mixed_batch_forward

    def changed(self: Any, x: torch.Tensor, *args: Any, adapter_names: list[str], **kw: Any) -> Any:
        return original(self, x, *args, adapter_names=adapter_names[::-1], **kw)

    patch.setattr(layer.LoraLayer, "_mixed_batch_forward", changed)


@fault("a_concatenation_is_the_weighted_sum")
def a_concatenation_forgets_the_weights(patch: Patch) -> None:
    original = lora_model.LoraModel.add_weighted_adapter

    def changed(self: Any, adapters: Any, weights: Any, *args: Any, **kwargs: Any) -> None:
        ones = [1.0] * len(weights) if kwargs.get("combination_type") == "cat" else weights
        original(self, adapters, ones, *args, **kwargs)

    patch.setattr(lora_model.LoraModel, "add_weighted_adapter", changed)


@fault("an_svd_is_the_best_of_its_rank")
def an_svd_loses_its_largest_value(patch: Patch) -> None:
    original = torch.linalg.svd

    def changed(*args: Any, **kwargs: Any) -> Any:
        u, s, vh = original(*args, **kwargs)
        return u, torch.cat([torch.zeros_like(s[:1]), s[1:]]), vh

    patch.setattr(torch.linalg, "svd", changed)


@fault("a_linear_combination_mixes_the_factors")
def a_linear_combination_forgets_signs(patch: Patch) -> None:
    original = lora_model.LoraModel.add_weighted_adapter

    def changed(self: Any, adapters: Any, weights: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("combination_type") not in ("cat", "svd"):
            weights = [abs(weight) for weight in weights]
        original(self, adapters, weights, *args, **kwargs)

    patch.setattr(lora_model.LoraModel, "add_weighted_adapter", changed)


# DoRA


@fault("forward_adds_the_delta", "peft.dora")
def the_dora_norm_is_the_bases(patch: Patch) -> None:
    original = dora.DoraLinearLayer.get_weight_norm

    def changed(self: Any, weight: Any, lora_weight: Any, scaling: Any, **kw: Any) -> Any:
        return original(self, weight, lora_weight, 0.0, **kw)

    patch.setattr(dora.DoraLinearLayer, "get_weight_norm", changed)


@fault("forward_adds_the_delta", "peft.dora")
def the_dora_norm_forgets_the_scaling(patch: Patch) -> None:
    original = dora.DoraLinearLayer.get_weight_norm

    def changed(self: Any, weight: Any, lora_weight: Any, scaling: Any, **kw: Any) -> Any:
        return original(self, weight, lora_weight, 1.0, **kw)

    patch.setattr(dora.DoraLinearLayer, "get_weight_norm", changed)


@fault("forward_adds_the_delta", "peft.dora")
def the_dora_norm_is_never_refreshed(patch: Patch) -> None:
    original = dora.DoraLinearLayer.get_weight_norm

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "_kept"):
            self._kept = original(self, *args, **kwargs)
        return self._kept

    patch.setattr(dora.DoraLinearLayer, "get_weight_norm", changed)


@fault("forward_adds_the_delta", "peft.dora")
def the_dora_magnitude_is_ignored(patch: Patch) -> None:
    def change(result: torch.Tensor, self: Any, x: torch.Tensor, **kw: Any) -> torch.Tensor:
        update: torch.Tensor = kw["lora_B"](kw["lora_A"](x)) * kw["scaling"]
        return update

    after(patch, dora.DoraLinearLayer, "forward", change)


@fault("merging_adds_the_delta_to_the_weight", "peft.dora")
def merging_dora_drops_the_magnitude(patch: Patch) -> None:
    def wrong(module: Any, name: str, weight: Any) -> None:
        weight.data += module.get_delta_weight(name)

    patch.setattr(variants.DoraLinearVariant, "merge_unsafe", staticmethod(wrong))


# Start, training, saving


@fault("fresh_it_is_the_base")
def b_does_not_start_at_zero(patch: Patch) -> None:
    def change(_: None, m: Any, name: str, *args: Any) -> None:
        torch.nn.init.normal_(m.lora_B[name].weight)

    after(patch, layer.LoraLayer, "reset_lora_parameters", change)


@fault("fresh_it_is_the_base")
def both_factors_start_at_zero(patch: Patch) -> None:
    def change(_: None, m: Any, name: str, *args: Any) -> None:
        torch.nn.init.zeros_(m.lora_A[name].weight)

    after(patch, layer.LoraLayer, "reset_lora_parameters", change)


@fault("the_base_gets_no_gradient")
def the_base_is_not_frozen(patch: Patch) -> None:
    patch.setattr(
        tuners_utils.BaseTuner, "_mark_only_adapters_as_trainable", lambda self, model: None
    )


@fault("gradients_are_the_products")
def a_gets_no_gradient(patch: Patch) -> None:
    forward(patch, lambda m, n, x: m.lora_B[n](m.lora_A[n](x).detach()) * m.scaling[n])


@fault("fresh_the_other_factor_does_not_move")
def gradients_are_doubled(patch: Patch) -> None:
    def update(m: Any, n: str, x: torch.Tensor) -> torch.Tensor:
        y = plain(m, n, x)
        return 2 * y - y.detach()

    forward(patch, update)


@fault("saving_and_loading_changes_nothing")
def saving_drops_b(patch: Patch) -> None:
    def change(state: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {key: value for key, value in state.items() if "lora_B" not in key}

    after(patch, __import__("peft.peft_model").peft_model, "get_peft_model_state_dict", change)


@fault("saving_and_loading_changes_nothing")
def saving_rounds_to_bfloat16(patch: Patch) -> None:
    def change(state: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {key: value.bfloat16().to(value.dtype) for key, value in state.items()}

    after(patch, __import__("peft.peft_model").peft_model, "get_peft_model_state_dict", change)


@fault("saving_and_loading_changes_nothing")
def loading_loads_nothing(patch: Patch) -> None:
    original = save_and_load.set_peft_model_state_dict

    def changed(model: Any, state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return original(model, {}, *args, **kwargs)

    patch.setattr(__import__("peft.peft_model").peft_model, "set_peft_model_state_dict", changed)


@fault("saving_and_loading_changes_nothing")
def the_saved_config_forgets_rslora(patch: Patch) -> None:
    original = LoraConfig.to_dict

    def changed(self: Any) -> dict[str, Any]:
        return original(self) | {"use_rslora": False}

    patch.setattr(LoraConfig, "to_dict", changed)


@fault("saving_and_loading_changes_nothing")
def the_saved_config_has_another_alpha(patch: Patch) -> None:
    original = LoraConfig.to_dict

    def changed(self: Any) -> dict[str, Any]:
        return original(self) | {"lora_alpha": self.lora_alpha * 2}

    patch.setattr(LoraConfig, "to_dict", changed)


# Embeddings and convolutions


@fault("forward_adds_the_delta", "peft.embedding")
def embeddings_do_not_scale(patch: Patch) -> None:
    original = layer.Embedding._embed

    def changed(self: Any, tokens: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, tokens, weight, *args, **kwargs) / self.scaling["default"]

    patch.setattr(layer.Embedding, "_embed", changed)


@fault("delta_is_scaling_times_b_times_a", "peft.embedding")
def embeddings_merge_into_the_next_row(patch: Patch) -> None:
    after(patch, layer.Embedding, "get_delta_weight", lambda d, *_: d.roll(1, 0))


@fault("forward_adds_the_delta", "peft.embedding")
def embeddings_look_up_the_next_token(patch: Patch) -> None:
    original = layer.Embedding._embed

    def changed(self: Any, tokens: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, (tokens + 1) % len(weight), weight, *args, **kwargs)

    patch.setattr(layer.Embedding, "_embed", changed)


@fault("delta_is_scaling_times_b_times_a", "peft.conv3d")
def kernels_are_flipped(patch: Patch) -> None:
    after(
        patch,
        layer._ConvNd,
        "get_delta_weight",
        lambda d, *_: d.flip(tuple(range(2, d.ndim))),
    )


@fault("delta_is_scaling_times_b_times_a", "peft.conv2d")
def convolutions_do_not_scale(patch: Patch) -> None:
    after(patch, layer._ConvNd, "get_delta_weight", lambda d, m, n: d / m.scaling[n])
