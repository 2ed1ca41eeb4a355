"""Adapters and settings for tests that run pytest itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

LOOK = """
import json, sys
def pytest_unconfigure():
    heavy = [m for m in ("torch", "transformers", "peft", "pandas") if m in sys.modules]
    open("loaded.json", "w").write(json.dumps(heavy))
"""


@pytest.fixture
def nan_adapter(adapter_copy: Callable[[str], Path], pytester: pytest.Pytester) -> Path:
    """The good adapter with one NaN; beside it a plugin that tells what was imported."""
    from safetensors.numpy import load_file, save_file

    (pytester.path / "look.py").write_text(LOOK)
    folder = adapter_copy("nan")
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in sorted(tensors) if "lora_B" in name)
    tensors[name].flat[0] = np.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread a worker: tests share the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
