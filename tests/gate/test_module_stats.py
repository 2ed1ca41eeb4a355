"""The math stage's measures: every module from files, one after another, and the worst is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from phi3_lora_qa.gate import module_stats, weight_streaming
from phi3_lora_qa.gate.adapted_layers import LoraLayer
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.gate.checks import mathematics
from phi3_lora_qa.gate.module_stats import rows_of, worst, worst_of
from phi3_lora_qa.gate.weight_streaming import streamed_layers
from phi3_lora_qa.lora import Factors
from phi3_lora_qa.record import Outcome
from tests.gate.conftest import MakeBench


def test_a_nan_is_the_worst_case() -> None:
    found = worst(np.array([0.5, np.nan, 0.1]), np.ones(3))
    assert np.isnan(found.error)
    assert found.ratio == np.inf


def test_no_error_is_no_part_of_a_bound_of_zero() -> None:
    assert worst(np.zeros(2), np.zeros(2)).ratio == 0.0
    assert worst(np.array([1e-30]), np.zeros(1)).ratio == np.inf


def test_the_worst_of_several_is_promised_where_one_of_them_is() -> None:
    open_, held, missed = (
        worst(np.array([error]), np.array([bound]))
        for error, bound in ((3.0, np.inf), (1.0, 2.0), (3.0, 2.0))
    )
    assert worst_of([open_, held, missed, held]) == missed
    assert worst_of([held, open_]) == held
    assert not worst_of([open_, open_]).promised
    assert worst_of([open_, worst(np.zeros(1), np.ones(1))]).promised


def test_an_infinite_bound_promises_nothing_and_is_no_pass(make_bench: MakeBench) -> None:
    beyond = worst(np.array([3.0]), np.array([np.inf]))
    assert not beyond.promised
    assert worst(np.array([3.0, 0.0]), np.array([np.inf, 1.0])).promised
    bench = make_bench()
    with bench.run.quietly("math"):
        first, *rest = bench.modules
    bench.__dict__["modules"] = (*rest, replace(first, forward=beyond))
    with pytest.raises(CheckFailedError, match=f"{first.name} leaves the range") as caught:
        mathematics.forward_adds_the_delta(bench)
    assert caught.value.outcome is Outcome.NOT_RUN


def test_rows_keep_what_belongs_to_them() -> None:
    f = Factors(
        A=np.ones((1, 2)),
        B=np.array([[1.0], [2.0], [3.0]]),
        scaling=2.0,
        magnitude=np.array([4.0, 5.0, 6.0]),
        bias=np.array([7.0, 8.0, 9.0]),
    )
    part = rows_of(f, np.array([0, 2]))
    assert part.B.tolist() == [[1.0], [3.0]]
    assert part.magnitude is not None
    assert part.magnitude.tolist() == [4.0, 6.0]
    assert part.bias is not None
    assert part.bias.tolist() == [7.0, 9.0]
    assert part.A is f.A


def test_streamed_layers_are_the_attached_models(make_bench: MakeBench) -> None:
    from phi3_lora_qa.gate.adapted_layers import lora_layers

    bench = make_bench()
    with bench.run.quietly("math"):
        attached = {layer.name: layer for layer in lora_layers(bench)}
        for layer in streamed_layers(bench):
            twin = attached.pop(layer.name)
            assert np.array_equal(layer.base_weight(), twin.base_weight())
            assert np.array_equal(layer.peft_delta(), twin.peft_delta())
            some = np.array([1, 3])
            assert np.allclose(layer.peft_delta(2.0, some), 2.0 * twin.peft_delta()[some], 1e-5)
            assert np.array_equal(layer.peft_delta(), twin.peft_delta())  # B is whole again
            x = layer.draw_input(0, 1.0)
            assert np.array_equal(layer.forward(x), twin.forward(x))
        assert not attached


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (1, 5), (5, 1), (2, 2)])
def test_the_norm_of_a_weight_is_met_from_below(shape: tuple[int, int]) -> None:
    weights = np.random.default_rng(0).standard_normal((20, *shape))
    for weight in weights:
        found, norm = _layer_with(weight).base_norm(), np.linalg.norm(weight, 2)
        assert 0.8 * norm <= found <= norm * (1 + 1e-5)
    thin = np.outer(np.arange(1.0, 5.0), np.arange(2.0, 9.0))
    assert _layer_with(thin).base_norm() == pytest.approx(np.linalg.norm(thin, 2), rel=1e-5)
    assert _layer_with(np.zeros(shape)).base_norm() == 0.0


def test_weights_are_read_in_pieces_of_any_size(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    with bench.run.quietly("math"):
        whole = [layer.base_weight() for layer in streamed_layers(bench)]
        for entries in (1, 1000):
            monkeypatch.setattr(weight_streaming, "_ENTRIES", entries)
            found = [layer.base_weight() for layer in streamed_layers(bench)]
            assert all(map(np.array_equal, whole, found))


def test_an_error_in_any_row_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_stats, "BLOCK", 1000)
    bench = make_bench()
    with bench.run.quietly("math"):
        layer = next(iter(streamed_layers(bench)))
        B = layer.layer.lora_B["default"].weight.data
        draw = np.random.default_rng
        assert module_stats._measure(layer, draw(0), scaled=True).delta.ratio < 1
        for row in (0, len(B) // 2, len(B) - 1):
            kept, B[row] = B[row].clone(), B[row] * 1.001
            spoilt = module_stats._measure(layer, draw(0), scaled=True)
            assert spoilt.scaled is not None
            assert min(spoilt.delta.ratio, spoilt.scaled.ratio) > 1
            B[row] = kept
        A = layer.layer.lora_A["default"].weight.data
        A += 1e-3
        assert module_stats._measure(layer, draw(0), scaled=False).rank.ratio > 1


def _layer_with(weight: NDArray[np.float64]) -> LoraLayer:
    import torch
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear

    out, inside = weight.shape
    base = torch.nn.Linear(inside, out, bias=False)
    base.weight.data = torch.from_numpy(weight).float()
    factors = Factors(A=weight[:1], B=weight[:, :1], scaling=1.0)
    return LoraLayer("one", factors, Linear(base, "default", LoraConfig(r=1), r=1), "default")


def test_the_math_stage_loads_no_model(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3_lora_qa.models import loading

    def refuse(*_: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading, "load_base", refuse)
    bench = make_bench()
    with bench.run.quietly("math"):
        for check in mathematics.checks():
            assert check.run(bench).message


def test_every_module_is_measured_and_some_are_scaled(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_stats, "SCALED_MODULES", 3)
    bench = make_bench()
    with bench.run.quietly("math"):
        found = bench.modules
    assert [m.name for m in found] == sorted(bench.factors)
    assert sum(m.scaled is not None for m in found) == 3


def test_a_property_that_breaks_on_the_adapters_values_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    monkeypatch.setattr(Linear, "unmerge", lambda self: self.merged_adapters.clear())
    bench = make_bench()
    with bench.run.quietly("math"), pytest.raises(CheckFailedError, match="merged") as caught:
        mathematics.layer_properties_hold(bench)
    assert caught.value.measured["error"] > 0


def test_an_error_in_one_module_fails_the_check(make_bench: MakeBench) -> None:
    bench = make_bench()
    with bench.run.quietly("math"):
        first, *rest = bench.modules
    spoilt = replace(first, delta=worst(np.array([np.nan]), np.ones(1)))
    bench.__dict__["modules"] = (*rest, spoilt)
    with pytest.raises(CheckFailedError, match=f"in {first.name} by nan"):
        mathematics.delta_is_scaling_times_b_times_a(bench)
