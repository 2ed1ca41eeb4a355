"""Faults of the scaling and of the forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora import layer

from tests.properties.planting import Patch, after, fault, forward, plain


def set_scaling(patch: Patch, wrong: Callable[[Any, str], float]) -> None:
    def change(_: None, module: Any, name: str, *args: Any, **kwargs: Any) -> None:
        module.scaling[name] = wrong(module, name)

    after(patch, layer.LoraLayer, "update_layer", change)


@fault("delta_is_scaling_times_b_times_a")
def alpha_and_rank_swapped(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: m.r[n] / m.lora_alpha[n])


@fault("delta_is_scaling_times_b_times_a")
def scaling_is_alpha(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: m.lora_alpha[n])


@fault("delta_is_scaling_times_b_times_a")
def rslora_is_ignored(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: m.lora_alpha[n] / m.r[n])


@fault("delta_is_linear_in_scaling")
def rslora_is_always_used(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: m.lora_alpha[n] / m.r[n] ** 0.5)


@fault("delta_is_scaling_times_b_times_a")
def scaling_is_an_integer(patch: Patch) -> None:
    set_scaling(patch, lambda m, n: float(max(1, m.lora_alpha[n] // m.r[n])))


@fault("delta_is_linear_in_scaling")
def set_scale_accumulates(patch: Patch) -> None:
    def wrong(self: Any, adapter: str, scale: float) -> None:
        self.scaling[adapter] *= scale

    patch.setattr(layer.LoraLayer, "set_scale", wrong)


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


@fault("dropout_is_inactive_in_eval_mode")
def dropout_stays_active(patch: Patch) -> None:
    def update(m: Any, n: str, x: torch.Tensor) -> torch.Tensor:
        rate = getattr(m.lora_dropout[n], "p", 0.0)
        return plain(m, n, torch.nn.functional.dropout(x, rate, training=True))

    forward(patch, update)


@fault("dropout_is_active_in_training_mode")
def dropout_is_ignored(patch: Patch) -> None:
    forward(patch, plain)


@fault("output_dtype_matches_the_base", "peft.mixed_dtypes")
def output_stays_in_float32(patch: Patch) -> None:
    after(patch, layer.Linear, "forward", lambda y, *args, **kwargs: y.float())
