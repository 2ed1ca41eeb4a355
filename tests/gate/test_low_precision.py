"""On a base of low precision an adapter keeps its own, and an update that is off is found."""

from importlib.util import find_spec
from typing import Any

import pytest

from phi3_lora_qa.gate.checks import low_precision
from tests.gate.conftest import MakeBench, attached, fails, holds

absent = find_spec("bitsandbytes") is None
needs_bitsandbytes = pytest.mark.skipif(absent, reason="bitsandbytes is not installed")
needs_absence = pytest.mark.skipif(not absent, reason="bitsandbytes is installed")


@pytest.mark.slow
def test_low_precision_holds_on_the_good_adapter_with_a_bound_that_is_not_far_off(
    make_bench: MakeBench,
) -> None:
    bench = make_bench()
    with bench.run.quietly("math"):
        held = low_precision.low_precision_base_is_within_bounds(bench)
    assert "in bfloat16 and float16" in held.message
    assert 0.5 < float(str(held.measured["ratio"])) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("low", ["bfloat16", "float16"])
def test_an_update_that_is_lost_on_a_base_of_low_precision_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any, low: str
) -> None:
    real = lora_linear.forward

    def forward(self: Any, x: Any, *args: Any, **options: Any) -> Any:
        return self.base_layer(x) if low in str(x.dtype) else real(self, x, *args, **options)

    monkeypatch.setattr(lora_linear, "forward", forward)
    error = fails(low_precision.low_precision_base_is_within_bounds, make_bench())
    assert f"on a {low} base is off by" in error.message
    assert error.measured["ratio"] > 10


@pytest.mark.slow
def test_an_input_that_is_rounded_to_the_wrong_dtype_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    import torch

    real = lora_linear._cast_input_dtype
    monkeypatch.setattr(
        lora_linear,
        "_cast_input_dtype",
        lambda self, x, dtype: real(self, x.to(torch.float8_e4m3fn), dtype),
    )
    error = fails(low_precision.low_precision_base_is_within_bounds, make_bench())
    assert "base is off by" in error.message


def test_factors_that_take_the_dtype_of_the_base_are_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners import tuners_utils

    bench = attached(make_bench())
    monkeypatch.setattr(tuners_utils, "cast_adapter_dtype", lambda *args, **options: None)
    error = fails(low_precision.low_precision_base_is_within_bounds, bench)
    assert "becomes torch.bfloat16, where PEFT promises torch.float32" in error.message


def test_an_adapter_that_does_not_attach_to_a_base_of_low_precision_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, lora_linear: Any
) -> None:
    import torch

    real = lora_linear.update_layer

    def update_layer(self: Any, *args: Any, **options: Any) -> None:
        if self.get_base_layer().weight.dtype == torch.float16:
            raise TypeError("no half here")
        real(self, *args, **options)

    monkeypatch.setattr(lora_linear, "update_layer", update_layer)
    error = fails(low_precision.low_precision_base_is_within_bounds, make_bench())
    assert error.message.startswith("on a float16 base: ")
    assert "no half here" in error.message


@needs_absence
def test_without_a_quantiser_four_bits_do_not_apply(make_bench: MakeBench) -> None:
    message = holds(low_precision.quantised_base_is_within_bounds, make_bench())
    assert message.startswith("not applicable: bitsandbytes is not installed")
    assert 'pip install "phi3-lora-qa[qlora]"' in message


@needs_bitsandbytes
def test_over_four_bits_the_good_adapter_holds(make_bench: MakeBench) -> None:
    message = holds(low_precision.quantised_base_is_within_bounds, make_bench())
    assert message.startswith("on a base in 4 bits the adapter stays in float32 and 16 modules")


@needs_bitsandbytes
def test_an_update_that_is_lost_over_four_bits_is_found(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.bnb import Linear4bit

    monkeypatch.setattr(Linear4bit, "forward", lambda self, x, *a, **k: self.base_layer(x))
    error = fails(low_precision.quantised_base_is_within_bounds, make_bench())
    assert "on a base in 4 bits is off by" in error.message
