"""The checks on merging and on the base fail on the fault that each is for, and name it.

Faults are planted in peft's own methods, or in the module that merges. That healthy adapters of
every kind hold is proved in test_variants.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.gate.adapted_layers import lora_layers
from phi3_lora_qa.gate.checks import checkpoint
from phi3_lora_qa.models import merge
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.models.tensor_conversion import to_float64
from phi3_lora_qa.record import Outcome
from tests.gate.conftest import MakeBench, attached, fails, holds
from tests.variants import VARIANTS, train

pytestmark = pytest.mark.slow


def test_checkpoint_holds_on_the_good_adapter(make_bench: MakeBench) -> None:
    bench = make_bench()
    for check in checkpoint.checks():
        assert holds(check.run, bench), check.name


def test_a_merge_without_scaling_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    bench = attached(make_bench())
    real = lora_linear.get_delta_weight
    monkeypatch.setattr(
        lora_linear, "get_delta_weight", lambda s, a: real(s, a) / s.scaling[a] * 1.5
    )
    assert "merging" in fails(checkpoint.merged_matches_unmerged, bench).message


@pytest.mark.parametrize(
    "check",
    [
        checkpoint.base_is_unchanged_when_attached,
        checkpoint.base_restored_when_disabled,
        checkpoint.base_restored_when_unloaded,
    ],
)
def test_a_base_that_was_written_to_is_found(
    make_bench: MakeBench, check: Callable[..., Any]
) -> None:
    import torch

    bench = make_bench(stage=["checkpoint"])
    with bench.run.quietly("math"), torch.no_grad():
        _ = bench.tuned
        bench.run.base(bench).model.model.layers[0].mlp.down_proj.weight[0].add_(0.5)
    error = fails(check, bench)
    assert "base" in error.message or "logits" in error.message


@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_nan_in_one_module_is_not_forgotten_at_the_next(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any, place: int
) -> None:
    bench = make_bench()
    with bench.run.quietly("math"):
        spoilt = lora_layers(bench)[place].layer
    real = lora_linear.merge

    def merge(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        if self.out_features == spoilt.out_features and np.array_equal(
            to_float64(self.lora_B["default"].weight), to_float64(spoilt.lora_B["default"].weight)
        ):
            self.get_base_layer().weight.data[0, 0] = float("nan")

    monkeypatch.setattr(lora_linear, "merge", merge)
    assert fails(checkpoint.merged_matches_unmerged, bench).measured["module"]


def test_without_a_module_that_could_be_merged_nothing_has_been_run(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.__dict__["factors"] = {}
    for check in (checkpoint.merged_matches_unmerged, checkpoint.adapter_comes_back_from_merged):
        assert fails(check, bench).outcome is Outcome.NOT_RUN


@pytest.fixture
def change_merged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that changes one tensor of every merged model."""
    real = merge.merged_tensors

    def plant(name: str, change: Callable[[Any, Any], Any]) -> None:
        def changed(base: Any, tuned: Any, **options: Any) -> Iterator[tuple[str, Any]]:
            for each, tensor in real(base, tuned, **options):
                yield (
                    each,
                    (change(tensor, base.model.state_dict()[each]) if each == name else tensor),
                )

        monkeypatch.setattr(merge, "merged_tensors", changed)

    return plant


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda merged, base: base, id="a module that is not merged"),
        pytest.param(lambda merged, base: 2 * merged - base, id="an update that is added twice"),
        pytest.param(
            lambda merged, base: base - (merged - base), id="an update with its sign lost"
        ),
        pytest.param(
            lambda merged, base: base + (merged - base).bfloat16(), id="an update in bfloat16"
        ),
        pytest.param(lambda merged, base: merged.roll(1, 0), id="rows that are shifted"),
    ],
)
def test_an_update_that_does_not_come_back_from_the_merged_model_is_found(
    make_bench: MakeBench, change_merged: Callable[..., None], change: Callable[[Any, Any], Any]
) -> None:
    change_merged("model.layers.2.mlp.down_proj.weight", change)
    error = fails(checkpoint.adapter_comes_back_from_merged, make_bench())
    assert "another update in model.layers.2.mlp.down_proj: " in error.message
    assert error.measured["largest_error_over_bound"] > 10


def test_a_tensor_that_merging_must_leave_alone_is_found(
    make_bench: MakeBench, change_merged: Callable[..., None]
) -> None:
    change_merged("model.norm.weight", lambda merged, base: merged + 2.0**-10)
    error = fails(checkpoint.adapter_comes_back_from_merged, make_bench())
    assert "model.norm.weight differs from the base's by up to 0.000977" in error.message


@pytest.mark.parametrize(
    ("variant", "name", "source"),
    [
        ("saved_head", "lm_head.weight", "the file's"),
        ("saved_norms", "model.embed_tokens.weight", "the file's"),
        ("token_rows", "model.embed_tokens.weight", "the base's with the file's rows"),
    ],
)
def test_what_else_was_trained_and_is_not_in_the_merged_model_is_found(
    make_bench: MakeBench,
    change_merged: Callable[..., None],
    tmp_path: Path,
    variant: str,
    name: str,
    source: str,
) -> None:
    train(load_base(resolve_base("tiny")).model, tmp_path / "adapter", **VARIANTS[variant])
    change_merged(name, lambda merged, base: base)
    error = fails(checkpoint.adapter_comes_back_from_merged, make_bench(tmp_path / "adapter"))
    assert f"{name} differs from {source} by up to " in error.message


def test_a_merged_model_without_one_of_its_modules_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = merge.merged_tensors
    monkeypatch.setattr(
        merge,
        "merged_tensors",
        lambda *a, **k: (pair for pair in real(*a, **k) if "layers.1.mlp.gate_up" not in pair[0]),
    )
    error = fails(checkpoint.adapter_comes_back_from_merged, make_bench())
    assert error.message == "the merged model lacks model.layers.1.mlp.gate_up_proj"


def test_rows_that_dora_scales_to_nothing_give_nothing_back_and_hold(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    train(load_base(resolve_base("tiny")).model, tmp_path / "adapter", use_dora=True)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    for name in (n for n in tensors if "magnitude" in n):
        tensors[name][3] = 0.0
    save_file(tensors, weights, metadata={"format": "pt"})
    bench = make_bench(tmp_path / "adapter")
    assert "update again" in holds(checkpoint.adapter_comes_back_from_merged, bench)
