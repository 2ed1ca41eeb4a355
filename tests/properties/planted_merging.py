"""Faults of the delta, of merging and of unmerging."""

from typing import Any

import torch
from peft.tuners import tuners_utils
from peft.tuners.lora import layer

from tests.properties.planting import Patch, after, fault


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


@fault("merging_two_adapters_adds_both_deltas")
def merge_does_not_scale(patch: Patch) -> None:
    def change(_: None, m: Any, *args: Any, **kwargs: Any) -> None:
        for name in m.merged_adapters:
            delta = m.get_delta_weight(name)
            m.get_base_layer().weight.data += delta / m.scaling[name] - delta

    after(patch, layer.Linear, "merge", change)


@fault("merging_twice_adds_the_delta_once")
def merge_repeats_when_merged(patch: Patch) -> None:
    patch.setattr(
        layer, "check_adapters_to_merge", lambda m, names=None: names or m.active_adapters
    )


@fault("merging_two_adapters_adds_both_deltas")
def merge_uses_only_the_first_adapter(patch: Patch) -> None:
    original = tuners_utils.check_adapters_to_merge
    patch.setattr(layer, "check_adapters_to_merge", lambda m, names=None: original(m, names)[:1])


@fault("merging_two_adapters_adds_both_deltas", "peft.safe_merge")
def safe_merge_does_not_write(patch: Patch) -> None:
    original = layer.Linear.merge

    def changed(self: Any, safe_merge: bool = False, adapter_names: Any = None) -> None:
        before = self.get_base_layer().weight.data.clone()
        original(self, safe_merge, adapter_names)
        if safe_merge:
            self.get_base_layer().weight.data = before

    patch.setattr(layer.Linear, "merge", changed)


@fault("merged_output_matches_unmerged")
def merge_ignores_the_bias_of_b(patch: Patch) -> None:
    original = layer.Linear.merge

    def changed(self: Any, *args: Any, **kwargs: Any) -> None:
        bias = self.get_base_layer().bias
        before = None if bias is None else bias.data.clone()
        original(self, *args, **kwargs)
        if before is not None:
            bias.data = before

    patch.setattr(layer.Linear, "merge", changed)


@fault("merging_two_adapters_adds_both_deltas")
def unmerge_adds_again(patch: Patch) -> None:
    def change(_: None, m: Any) -> None:
        m.get_base_layer().weight.data += 2 * m.get_delta_weight("default")

    after(patch, layer.Linear, "unmerge", change)


@fault("merging_two_adapters_adds_both_deltas")
def unmerge_does_not_change_the_weight(patch: Patch) -> None:
    patch.setattr(layer.Linear, "unmerge", lambda self: self.merged_adapters.clear())


@fault("disabling_while_merged_restores_the_base")
def unmerge_does_not_change_the_bias(patch: Patch) -> None:
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
def the_delta_ignores_fan_in_fan_out(patch: Patch) -> None:
    after(patch, layer.Linear, "get_delta_weight", lambda d, *_: d.T)
