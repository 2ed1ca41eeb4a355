"""On a base of low precision the adapter stays in float32, and a wrong update is found."""

from importlib.util import find_spec
from typing import Any

import pytest

from phi3_lora_qa.gate.checks import low_precision
from phi3_lora_qa.record import Outcome
from tests.gate.builders import MakeSession, attached, fails, passes, run_quietly

absent = find_spec("bitsandbytes") is None
needs_bitsandbytes = pytest.mark.skipif(absent, reason="bitsandbytes is not installed")
needs_absence = pytest.mark.skipif(not absent, reason="bitsandbytes is installed")


@pytest.mark.slow
def test_low_precision_passes_on_the_good_adapter_with_a_tight_bound(
    make_session: MakeSession,
) -> None:
    session = make_session()
    found = run_quietly(low_precision.low_precision_base_is_within_bounds, session)
    assert found.outcome is Outcome.PASSED
    assert "in bfloat16 and float16" in found.message
    assert 0.5 < float(str(found.measured["ratio"])) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("low", ["bfloat16", "float16"])
def test_an_update_that_is_lost_on_a_base_of_low_precision_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any, low: str
) -> None:
    real = lora_linear.forward

    def forward(self: Any, x: Any, *args: Any, **options: Any) -> Any:
        return self.base_layer(x) if low in str(x.dtype) else real(self, x, *args, **options)

    monkeypatch.setattr(lora_linear, "forward", forward)
    outcome = fails(low_precision.low_precision_base_is_within_bounds, make_session())
    assert f"on a {low} base is off by" in outcome.message
    assert outcome.measured["ratio"] > 10


@pytest.mark.slow
def test_an_input_that_is_rounded_to_the_wrong_dtype_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    import torch

    real = lora_linear._cast_input_dtype
    monkeypatch.setattr(
        lora_linear,
        "_cast_input_dtype",
        lambda self, x, dtype: real(self, x.to(torch.float8_e4m3fn), dtype),
    )
    outcome = fails(low_precision.low_precision_base_is_within_bounds, make_session())
    assert "base is off by" in outcome.message


def test_factors_that_take_the_dtype_of_the_base_are_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners import tuners_utils

    session = attached(make_session())
    monkeypatch.setattr(tuners_utils, "cast_adapter_dtype", lambda *args, **options: None)
    outcome = fails(low_precision.low_precision_base_is_within_bounds, session)
    assert "becomes torch.bfloat16; PEFT documents torch.float32" in outcome.message


def test_an_adapter_that_does_not_attach_to_a_base_of_low_precision_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    import torch

    real = lora_linear.update_layer

    def update_layer(self: Any, *args: Any, **options: Any) -> None:
        if self.get_base_layer().weight.dtype == torch.float16:
            raise TypeError("no half here")
        real(self, *args, **options)

    monkeypatch.setattr(lora_linear, "update_layer", update_layer)
    outcome = fails(low_precision.low_precision_base_is_within_bounds, make_session())
    assert outcome.message.startswith("on a float16 base: ")
    assert "no half here" in outcome.message


@needs_absence
def test_without_bitsandbytes_four_bits_are_not_applicable(make_session: MakeSession) -> None:
    message = passes(low_precision.quantised_base_is_within_bounds, make_session())
    assert message.startswith("not applicable: bitsandbytes is not installed")
    assert 'pip install "phi3-lora-qa[qlora]"' in message


@needs_bitsandbytes
def test_on_four_bits_the_good_adapter_passes(make_session: MakeSession) -> None:
    message = passes(low_precision.quantised_base_is_within_bounds, make_session())
    assert message.startswith("on a base in 4 bits the adapter stays in float32 and 16 modules")


@needs_bitsandbytes
def test_an_update_that_is_lost_on_four_bits_is_found(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.bnb import Linear4bit

    monkeypatch.setattr(Linear4bit, "forward", lambda self, x, *a, **k: self.base_layer(x))
    outcome = fails(low_precision.quantised_base_is_within_bounds, make_session())
    assert "on a base in 4 bits is off by" in outcome.message
