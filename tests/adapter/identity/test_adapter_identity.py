"""Format, words, base and fault of one folder follow from one another."""

import json
from pathlib import Path

from phi3_lora_qa.adapter.architecture import LLAMA, PHI3
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.identity.adapter_identity import AdapterIdentity
from phi3_lora_qa.adapter.safetensors_file import open_safetensors
from tests.adapter.adapters import Adapter, plain
from tests.adapter.identity.published import SPLIT, layers, published

WEIGHTS = "adapter_model.safetensors"


def identity(adapter: Adapter, path: Path, *, any_base: bool = False) -> AdapterIdentity:
    folder = AdapterFolder.open(adapter.save(path))
    return AdapterIdentity(
        folder=folder,
        raw_config=json.loads((path / "adapter_config.json").read_text()),
        config=None,
        weights=open_safetensors(lambda: folder.open_file(WEIGHTS), WEIGHTS),
        base=None,
        any_base=any_base,
    )


def test_a_phi_has_no_fault(tmp_path: Path) -> None:
    found = identity(plain(), tmp_path)
    assert found.foreign_format is None
    assert found.base_fault is None
    assert found.assumed_architecture is PHI3


def test_another_base_has_a_fault_unless_any_base_is_accepted(tmp_path: Path) -> None:
    adapter = published("meta-llama/Llama-3.2-1B", layers(*SPLIT))
    assert identity(adapter, tmp_path / "a").base_fault is not None
    accepted = identity(adapter, tmp_path / "b", any_base=True)
    assert accepted.base_fault is None
    assert accepted.assumed_architecture is LLAMA


def test_an_empty_folder_has_no_identity(tmp_path: Path) -> None:
    found = AdapterIdentity(
        folder=AdapterFolder.open(tmp_path),
        raw_config=None,
        config=None,
        weights=None,
        base=None,
        any_base=False,
    )
    assert found.foreign_format is None
    assert found.base_of_adapter.is_phi is None
    assert found.base_fault is None
