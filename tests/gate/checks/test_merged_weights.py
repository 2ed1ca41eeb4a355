"""The checks on merging and on the base fail on their faults, and name them.

Faults are planted in peft's methods, or in the module that merges. That healthy adapters of every
kind pass is tested in scenarios/test_variants.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.gate.checks import merged_weights
from phi3_lora_qa.models import merge
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.models.tensor_conversion import to_float64
from phi3_lora_qa.record import Outcome
from tests.gate.builders import MakeSession, attached, fails, passes, with_factors
from tests.variants import VARIANTS, train

pytestmark = pytest.mark.slow


def test_a_merge_without_scaling_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    session = attached(make_session())
    real = lora_linear.get_delta_weight
    monkeypatch.setattr(
        lora_linear, "get_delta_weight", lambda s, a: real(s, a) / s.scaling[a] * 1.5
    )
    assert "the merged weight of" in fails(merged_weights.merged_matches_unmerged, session).message


@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_nan_in_one_module_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any, place: int
) -> None:
    session = make_session()
    with quiet():
        spoilt = session.list_lora_layers()[place].layer
    real = lora_linear.merge

    def merge(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        if self.out_features == spoilt.out_features and np.array_equal(
            to_float64(self.lora_B["default"].weight), to_float64(spoilt.lora_B["default"].weight)
        ):
            self.get_base_layer().weight.data[0, 0] = float("nan")

    monkeypatch.setattr(lora_linear, "merge", merge)
    assert fails(merged_weights.merged_matches_unmerged, session).measured["module"]


def test_without_a_lora_module_merging_is_not_run(make_session: MakeSession) -> None:
    session = with_factors(make_session(), {})
    for check in (
        merged_weights.merged_matches_unmerged,
        merged_weights.adapter_comes_back_from_merged,
    ):
        assert fails(check, session).outcome is Outcome.NOT_RUN


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
def test_another_update_in_the_merged_model_is_found(
    make_session: MakeSession, change_merged: Callable[..., None], change: Callable[[Any, Any], Any]
) -> None:
    change_merged("model.layers.2.mlp.down_proj.weight", change)
    outcome = fails(merged_weights.adapter_comes_back_from_merged, make_session())
    assert "a different update in model.layers.2.mlp.down_proj: " in outcome.message
    assert outcome.measured["largest_error_over_bound"] > 10


def test_another_tensor_that_merging_changes_is_found(
    make_session: MakeSession, change_merged: Callable[..., None]
) -> None:
    change_merged("model.norm.weight", lambda merged, base: merged + 2.0**-10)
    outcome = fails(merged_weights.adapter_comes_back_from_merged, make_session())
    assert "model.norm.weight differs from the base's by up to 0.000977" in outcome.message


@pytest.mark.parametrize(
    ("variant", "name", "source"),
    [
        ("saved_head", "lm_head.weight", "the file's"),
        ("saved_norms", "model.embed_tokens.weight", "the file's"),
        ("token_rows", "model.embed_tokens.weight", "the base's with the file's rows"),
    ],
)
def test_a_trained_tensor_that_is_not_in_the_merged_model_is_found(
    make_session: MakeSession,
    change_merged: Callable[..., None],
    tmp_path: Path,
    variant: str,
    name: str,
    source: str,
) -> None:
    train(load_base(resolve_base("tiny")).model, tmp_path / "adapter", **VARIANTS[variant])
    change_merged(name, lambda merged, base: base)
    outcome = fails(
        merged_weights.adapter_comes_back_from_merged, make_session(tmp_path / "adapter")
    )
    assert f"{name} differs from {source} by up to " in outcome.message


def test_a_merged_model_without_one_of_its_modules_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = merge.merged_tensors
    monkeypatch.setattr(
        merge,
        "merged_tensors",
        lambda *a, **k: (pair for pair in real(*a, **k) if "layers.1.mlp.gate_up" not in pair[0]),
    )
    outcome = fails(merged_weights.adapter_comes_back_from_merged, make_session())
    assert outcome.message == "the merged model lacks model.layers.1.mlp.gate_up_proj"


def test_rows_with_a_dora_magnitude_of_zero_pass(make_session: MakeSession, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    train(load_base(resolve_base("tiny")).model, tmp_path / "adapter", use_dora=True)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    for name in (n for n in tensors if "magnitude" in n):
        tensors[name][3] = 0.0
    save_file(tensors, weights, metadata={"format": "pt"})
    session = make_session(tmp_path / "adapter")
    assert "each module's update" in passes(merged_weights.adapter_comes_back_from_merged, session)
