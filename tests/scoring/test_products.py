from typing import Any

import pytest
import torch
from torch import nn

from phi3_lora_qa.lora import gamma
from phi3_lora_qa.scoring import products
from phi3_lora_qa.scoring.products import packed_products

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN"
)


class Other(nn.Linear):
    """A layer that keeps its weight in a way of its own, as quantised ones do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(x)


def drawn(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(48, 80), nn.ReLU(), nn.Linear(80, 24, bias=False))
    return layers.to(dtype)


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (3, 5, 48), (0, 48)])
def test_a_product_is_the_same_sum_in_another_order(shape: tuple[int, ...]) -> None:
    layer, x = drawn()[0], torch.randn(shape)
    with torch.inference_mode():
        plain = layer(x)
        with packed_products(layer):
            packed = layer(x)
        sizes = x.abs().double() @ layer.weight.abs().double().T + layer.bias.abs().double()
    assert packed.shape == plain.shape
    # Both orders are within gamma of the exact sum: Higham, Accuracy and Stability, section 3.1.
    assert ((packed - plain).abs() <= 2 * gamma(49, "float32") * sizes).all()


def test_products_in_bfloat16_are_packed_too() -> None:
    model, x = drawn(torch.bfloat16), torch.randn(5, 48).bfloat16()
    with torch.inference_mode():
        plain = model(x)
        with packed_products(model):
            assert "forward" in vars(model[0])
            torch.testing.assert_close(model(x), plain)


def test_layers_are_themselves_again_afterwards_even_after_an_error() -> None:
    model, wrong = drawn(), torch.ones(47)
    with pytest.raises(RuntimeError), packed_products(model):
        model(wrong)
    assert not any("forward" in vars(module) for module in model.modules())
    with torch.no_grad():
        model[0].weight.zero_()
        assert torch.equal(model[0](torch.ones(48)), model[0].bias)


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2.0 * weight


def test_a_weight_that_is_exchanged_or_changed_meanwhile_counts() -> None:
    from torch.nn.utils import parametrize

    layer, x = drawn()[2], torch.randn(3, 80)
    with torch.no_grad(), packed_products(layer):
        before = layer(x)
        parametrize.register_parametrization(layer, "weight", Doubled())
        torch.testing.assert_close(layer(x), 2.0 * before)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        torch.testing.assert_close(layer(x), before)
        layer.weight.mul_(3.0)
        torch.testing.assert_close(layer(x), 3.0 * before)


def test_a_layer_of_another_kind_or_dtype_keeps_its_own_product() -> None:
    model = nn.ModuleList([Other(4, 4), drawn(torch.float64)[0]])
    with packed_products(model):
        assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_too_large_to_be_held_twice_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "MOST_BYTES", 10_000)
    model = drawn()
    with packed_products(model):
        assert "forward" not in vars(model[0])
