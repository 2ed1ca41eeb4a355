"""Folders of bases, and what several test modules do with an attached adapter."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.models import smollm2
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.registry import BaseRef

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
LAYER = "base_model.model.model.layers.0"
MakeAdapter = Callable[..., Path]
WriteBase = Callable[..., BaseRef]
EditConfig = Callable[..., None]
EditTensors = Callable[[Path, Callable[[dict[str, Tensor]], object]], None]


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return torch.as_tensor(model(IDS).logits)


def assert_refused(base: LoadedBase, adapter: Path, what: str) -> None:
    """Expect that the adapter is refused, and that the base stays unchanged."""
    before, tree = checksum(base.model), str(base.model)
    with pytest.raises(AdapterError, match=what) as error:
        attach(base.model, adapter)
    assert str(error.value).isprintable()
    assert (checksum(base.model), str(base.model)) == (before, tree)


def write_smollm2(cache: Path, **changes: object) -> Path:
    """Write a folder that counts as an installed smollm2, but for changes to its provenance."""
    folder = cache / smollm2.NAME
    folder.mkdir(parents=True)
    (folder / smollm2.WEIGHTS_FILE).write_bytes(b"12345")
    provenance = smollm2.Provenance(
        requirement=smollm2.REQUIREMENT,
        wheel_sha256=smollm2.WHEEL_SHA256,
        gguf_sha256=smollm2.GGUF_SHA256,
        weights_sha256="",
        weights_bytes=5,
        largest_difference=0.0,
    )
    (folder / smollm2.PROVENANCE_FILE).write_text(json.dumps(asdict(provenance) | changes))
    return folder
