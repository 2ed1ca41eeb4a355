"""Faults of DoRA, and of layers other than linear ones."""

from typing import Any

import torch
from peft.tuners.lora import dora, layer, variants

from tests.properties.planting import Patch, after, fault


@fault("forward_adds_the_delta", "peft.dora")
def the_dora_norm_ignores_the_delta(patch: Patch) -> None:
    original = dora.DoraLinearLayer.get_weight_norm

    def changed(self: Any, weight: Any, lora_weight: Any, scaling: Any, **kw: Any) -> Any:
        return original(self, weight, lora_weight, 0.0, **kw)

    patch.setattr(dora.DoraLinearLayer, "get_weight_norm", changed)


@fault("forward_adds_the_delta", "peft.dora")
def the_dora_norm_ignores_the_scaling(patch: Patch) -> None:
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


@fault("merged_row_norms_equal_dora_magnitudes", "peft.dora_conv2d")
def the_norm_of_a_kernel_is_averaged_over_positions(patch: Patch) -> None:
    def wrong(self: Any, weight: Any, lora_weight: Any, scaling: Any) -> torch.Tensor:
        norm = (weight + scaling * lora_weight).norm(p=2, dim=1, keepdim=True)
        return norm.mean(dim=(2, 3), keepdim=True).transpose(1, 0)

    patch.setattr(dora._DoraConvNdLayer, "get_weight_norm", wrong)


@fault("forward_adds_the_delta", "peft.dora_conv2d")
def a_convolution_with_dora_averages_its_norms(patch: Patch) -> None:
    def change(norm: torch.Tensor, *_: Any) -> torch.Tensor:
        return norm.mean().expand_as(norm)

    after(patch, dora._DoraConvNdLayer, "get_weight_norm", change)


@fault("forward_adds_the_delta", "peft.grouped_conv")
def groups_read_the_ranks_of_the_next_group(patch: Patch) -> None:
    def change(_: None, m: Any, name: str, *args: Any, **kwargs: Any) -> None:
        def roll(b: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            return (given[0].roll(b.in_channels // b.groups, 1),)

        m.lora_B[name].register_forward_pre_hook(roll)

    after(patch, layer._ConvNd, "update_layer", change)


@fault("forward_adds_the_delta", "peft.grouped_conv")
def groups_interleave_the_ranks(patch: Patch) -> None:
    def change(_: None, m: Any, name: str, *args: Any, **kwargs: Any) -> None:
        def shuffle(b: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            return (given[0].unflatten(1, (-1, b.groups)).transpose(1, 2).flatten(1, 2),)

        m.lora_B[name].register_forward_pre_hook(shuffle)

    after(patch, layer._ConvNd, "update_layer", change)
