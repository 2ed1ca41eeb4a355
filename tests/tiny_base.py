"""Fixtures for tests that adapt the tiny base; a conftest imports those that its folder needs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from phi3_lora_qa.models.loading import LoadedBase


@pytest.fixture
def model(tiny: LoadedBase) -> Any:
    """A copy of the tiny model that the test may change."""
    return copy.deepcopy(tiny.model)


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    """Token ids (1, 6) for the tiny model."""
    return torch.tensor([[1, 17, 203, 55, 9, 400]])


@pytest.fixture(scope="session")
def perturb() -> Callable[[Any], None]:
    """A function that sets all factors of a model to nonzero values, as after training."""

    def draw(model: Any) -> None:
        generator = torch.Generator().manual_seed(7)
        for name, parameter in model.named_parameters():
            if name.endswith(("lora_A", "lora_B")):
                with torch.no_grad():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)

    return draw
