"""Factors are read from the file as float64, with each module's scaling."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.gate.adapter_factors import open_weights, read_factors


def test_factors_have_the_values_of_the_file_and_the_configs_scaling(good_adapter: Path) -> None:
    folder = AdapterFolder.open(good_adapter)
    factors, weights = read_factors(folder), open_weights(folder)
    config = json.loads((good_adapter / "adapter_config.json").read_text())
    assert len(weights.tensors) == 2 * len(factors)
    for module, found in factors.items():
        name = f"base_model.model.{module}.lora_A.weight"
        assert found.A.dtype == np.float64
        assert np.array_equal(found.A, weights.tensor(name))
        assert found.scaling == config["lora_alpha"] / config["r"]
        assert found.magnitude is found.bias is None


def test_damaged_weights_are_refused(adapter_copy: Callable[[str], Path]) -> None:
    folder = adapter_copy("damaged")
    (folder / "adapter_model.safetensors").write_bytes(b"no header")
    with pytest.raises(AdapterError):
        open_weights(AdapterFolder.open(folder))
