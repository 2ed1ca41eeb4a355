"""Prepacked linear layers compute the same products, and only where the processor can."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from phi3_lora_qa.lora import gamma
from phi3_lora_qa.scoring import prepacked_linear
from phi3_lora_qa.scoring.prepacked_linear import PACKED, matmul_backends, prepack_linear_layers


def refusal(dtype: torch.dtype) -> str:
    """Return torch's error if it cannot pack a dtype on this processor; empty if it can."""
    if not torch.backends.mkldnn.is_available():
        return "not built in"
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.ones(2, 2, dtype=dtype))
    except RuntimeError as error:
        return str(error)
    return ""


class Other(nn.Linear):
    """A layer that stores its weight differently, as quantized ones do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(x)


def random_layers(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(48, 80), nn.ReLU(), nn.Linear(80, 24, bias=False))
    return layers.to(dtype)


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (3, 5, 48), (0, 48)])
def test_a_prepacked_product_is_the_same_sum_in_a_different_order(shape: tuple[int, ...]) -> None:
    layer, x = random_layers()[0], torch.randn(shape)
    with torch.inference_mode():
        plain = layer(x)
        with prepack_linear_layers(layer):
            packed = layer(x)
        sizes = x.abs().double() @ layer.weight.abs().double().T + layer.bias.abs().double()
    assert packed.shape == plain.shape
    # Both orders are within gamma of the exact sum: Higham, Accuracy and Stability, section 3.1.
    assert ((packed - plain).abs() <= 2 * gamma(49, "float32") * sizes).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dtype_is_packed_if_the_processor_can_and_otherwise_uses_torchs_products(
    dtype: torch.dtype,
) -> None:
    model, x = random_layers(dtype), torch.randn(5, 48).to(dtype)
    (backend,) = matmul_backends(model).values()
    refused = refusal(dtype)
    assert (backend == PACKED) == (not refused)
    assert refused[:60] in backend
    with torch.inference_mode():
        plain = model(x)
        with prepack_linear_layers(model):
            assert ("forward" in vars(model[0])) == (not refused)
            torch.testing.assert_close(model(x), plain)


def test_each_dtype_of_a_model_is_tested_separately() -> None:
    """Such as a bfloat16 base with factors in float32, and a head in float64."""
    dtypes = torch.bfloat16, torch.float32, torch.float64
    backends = matmul_backends(nn.ModuleList([random_layers(dtype) for dtype in dtypes]))
    assert list(backends) == ["bfloat16", "float32", "float64"]
    assert "float64 is not packed" in backends["float64"]
    assert matmul_backends(nn.LayerNorm(4)) == {}


def test_only_the_fast_engine_prepacks() -> None:
    layers = random_layers()
    assert matmul_backends(layers, "fast") == matmul_backends(layers)
    (backend,) = matmul_backends(layers, "plain").values()
    assert backend == f"torch's own (torch {torch.__version__}: the plain engine)"


Refusing = Callable[[pytest.MonkeyPatch], None]


def lacks_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked_linear, "_operators", object)


def refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("needs the cpu support avx512bw")

    monkeypatch.setattr(prepacked_linear, "_pack", pack)


def is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one part in a thousand, as if a term were missing."""
    right = prepacked_linear._multiply
    monkeypatch.setattr(prepacked_linear, "_multiply", lambda *given: right(*given) * 1.001)


def returns_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked_linear, "_multiply", lambda x, *_: x.new_full((5, 80), torch.nan))


def is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked_linear, "_is_available", lambda: False)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lacks_the_operator, "AttributeError"),
        (refuses, "oneDNN refuses float32 here (RuntimeError: needs the cpu support avx512bw"),
        (is_wrong, "oneDNN's float32 is wrong here"),
        (returns_nan, "oneDNN's float32 is wrong here"),
        (is_switched_off, "oneDNN is not built in or is switched off"),
    ],
)
def test_torchs_own_products_replace_unsupported_ones_with_a_reason(
    broken: Refusing, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = random_layers(), torch.randn(5, 48)
    with torch.no_grad():
        plain = model(x)
        broken(monkeypatch)
        (backend,) = matmul_backends(model).values()
        with prepack_linear_layers(model):
            assert torch.equal(model(x), plain)
    assert backend.startswith("torch's own")
    assert f"torch {torch.__version__}" in backend
    assert says in backend


def test_the_test_product_changes_no_random_state_and_works_in_inference_mode() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model = random_layers()
    torch.manual_seed(3)
    with torch.inference_mode():
        frozen = matmul_backends(model)
    assert torch.equal(torch.rand(4), expected)
    assert frozen == matmul_backends(model)


def test_layers_are_restored_afterwards_even_after_an_error() -> None:
    model, wrong = random_layers(), torch.ones(47)
    with pytest.raises(RuntimeError), prepack_linear_layers(model):
        model(wrong)
    assert not any("forward" in vars(module) for module in model.modules())
    with torch.no_grad():
        model[0].weight.zero_()
        assert torch.equal(model[0](torch.ones(48)), model[0].bias)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2.0 * weight


def test_a_weight_that_is_replaced_or_changed_meanwhile_is_used() -> None:
    from torch.nn.utils import parametrize

    layer, x = random_layers()[2], torch.randn(3, 80)
    with torch.no_grad(), prepack_linear_layers(layer):
        before = layer(x)
        parametrize.register_parametrization(layer, "weight", Doubled())
        torch.testing.assert_close(layer(x), 2.0 * before)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        torch.testing.assert_close(layer(x), before)
        layer.weight.mul_(3.0)
        torch.testing.assert_close(layer(x), 3.0 * before)


def test_a_layer_of_another_class_or_dtype_keeps_its_own_product() -> None:
    model = nn.ModuleList([Other(4, 4), random_layers(torch.float64)[0]])
    with prepack_linear_layers(model):
        assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_that_is_too_large_to_store_twice_is_not_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepacked_linear, "MAX_BYTES", 10_000)
    model = random_layers()
    assert "take more than" in matmul_backends(model)["float32"]
    with prepack_linear_layers(model):
        assert "forward" not in vars(model[0])
