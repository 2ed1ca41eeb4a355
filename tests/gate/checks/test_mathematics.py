"""Each check of the math stage fails on its fault, and names the module.

Faults that files can have are put into files. Faults of the library that serves the adapter are
planted in peft's methods.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.gate.checks import mathematics
from phi3_lora_qa.gate.module_stats import max_error
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.record import Outcome
from tests.gate.builders import MakeSession, fails, passes, with_factors

pytestmark = pytest.mark.slow


def scale_weights(adapter: Path, factor: float, part: str = "lora_B") -> Path:
    from safetensors.numpy import load_file, save_file

    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    scaled = {n: (t * factor).astype(t.dtype) if part in n else t for n, t in tensors.items()}
    save_file(scaled, weights, metadata={"format": "pt"})
    return adapter


def test_math_passes_on_the_good_adapter(make_session: MakeSession) -> None:
    session = make_session()
    for check in mathematics.checks():
        assert passes(check.run, session), check.name


def test_a_delta_scaled_twice_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    real = lora_linear.get_delta_weight
    monkeypatch.setattr(lora_linear, "get_delta_weight", lambda s, a: real(s, a) * s.scaling[a])
    outcome = fails(mathematics.delta_is_scaling_times_b_times_a, make_session())
    assert "scaling · B·A" in outcome.message
    assert outcome.measured["ratio"] > 1


def test_a_delta_of_too_high_rank_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    import torch

    real = lora_linear.get_delta_weight

    def noisy(self: Any, adapter: str) -> Any:
        delta = real(self, adapter)
        noise = torch.randn(delta.shape, generator=torch.Generator().manual_seed(0))
        return delta + 1e-3 * delta.abs().mean() * noise

    monkeypatch.setattr(lora_linear, "get_delta_weight", noisy)
    assert "rank" in fails(mathematics.rank_is_bounded, make_session()).message


def test_a_scaling_that_does_not_take_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    monkeypatch.setattr(lora_linear, "set_scale", lambda *_: None)
    assert "linear" in fails(mathematics.delta_is_linear_in_alpha, make_session()).message


def test_a_forward_without_the_update_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    session = make_session()
    with quiet():
        session.attach_adapter()
    monkeypatch.setattr(lora_linear, "forward", lambda s, x, *a, **k: s.base_layer(x))
    assert "output" in fails(mathematics.forward_adds_the_delta, session).message


def test_an_exploded_update_is_found(
    make_session: MakeSession, adapter_copy: Callable[[str], Path]
) -> None:
    session = make_session(scale_weights(adapter_copy("exploded"), 1e4))
    outcome = fails(mathematics.update_norm_ratio, session)
    assert "times as large" in outcome.message
    assert "learning rate" in outcome.fix


def test_without_a_lora_module_the_math_is_not_run(make_session: MakeSession) -> None:
    session = with_factors(make_session(), {})
    for check in mathematics.checks():
        assert fails(check.run, session).outcome is Outcome.NOT_RUN, check.name


def test_an_infinite_bound_is_not_a_pass(make_session: MakeSession) -> None:
    beyond = max_error(np.array([3.0]), np.array([np.inf]))
    assert not beyond.is_bounded
    assert max_error(np.array([3.0, 0.0]), np.array([np.inf, 1.0])).is_bounded
    session = make_session()
    with quiet():
        first, *rest = session.measure_modules()
    modules = (*rest, replace(first, forward=beyond))
    outcome = mathematics.check_modules(modules, lambda m: m.forward, "a fault", "float32")
    assert outcome.outcome is Outcome.NOT_RUN
    assert f"the values in {first.name} exceed the range of float32" in outcome.message


def test_the_math_stage_loads_no_model(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phi3_lora_qa.models import loading

    def refuse(*_: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading, "load_base", refuse)
    session = make_session()
    with quiet():
        for check in mathematics.checks():
            assert check.run(session).message


def test_a_property_that_fails_on_the_adapters_values_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    monkeypatch.setattr(Linear, "unmerge", lambda self: self.merged_adapters.clear())
    session = make_session()
    outcome = fails(mathematics.layer_properties_hold, session)
    assert outcome.outcome is Outcome.FAILED
    assert "merged" in outcome.message
    assert outcome.measured["error"] > 0


def test_an_error_in_one_module_fails_the_check(make_session: MakeSession) -> None:
    session = make_session()
    with quiet():
        first, *rest = session.measure_modules()
    spoilt = replace(first, delta=max_error(np.array([np.nan]), np.ones(1)))
    outcome = mathematics.check_modules((*rest, spoilt), lambda m: m.delta, "a fault", "float32")
    assert outcome.outcome is Outcome.FAILED
    assert f"in {first.name} by nan" in outcome.message
