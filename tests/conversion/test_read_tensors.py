import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.conversion.read_tensors import (
    is_pickle,
    read_file_tensors,
    read_folder_tensors,
    unpickle,
)
from phi3_lora_qa.errors import AdapterError

TENSORS = {"b": torch.ones(2, 3), "a": torch.zeros(4).bfloat16(), "c": torch.tensor([7])}


def test_tensors_are_read_by_name_in_order(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "adapter_model.safetensors")
    torch.save(TENSORS, tmp_path / "x.pt")
    folder = AdapterFolder.open(tmp_path)
    for found in (
        read_folder_tensors(folder, "adapter_model.safetensors"),
        read_file_tensors(tmp_path / "adapter_model.safetensors"),
        read_file_tensors(tmp_path / "x.pt", allow_pickle=True),
    ):
        assert list(found) == ["a", "b", "c"]
        assert all(torch.equal(found[name], TENSORS[name]) for name in found)


def test_a_pickle_is_recognised_by_its_content(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.safetensors")
    save_file(TENSORS, tmp_path / "x.pt")
    assert is_pickle(tmp_path / "x.safetensors")
    assert not is_pickle(tmp_path / "x.pt")
    with pytest.raises(AdapterError, match="pass --allow-pickle"):
        read_file_tensors(tmp_path / "x.safetensors", allow_pickle=False)
    with pytest.raises(AdapterError, match="is a pickle"):
        read_file_tensors(tmp_path / "x.safetensors")


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    "content",
    [
        {"a": Attack()},
        [torch.ones(2)],
        {"a": 1},
        {1: torch.ones(2)},
        {"a": torch.ones(1).expand(1 << 40)},
        {"a": torch.eye(3).to_sparse()},
    ],
    ids=["code", "list", "number", "key", "repeated", "sparse"],
)
def test_a_pickle_of_anything_but_dense_tensors_is_refused(
    tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(AdapterError, match=r"; save it again$"):
        unpickle(tmp_path / "x.pt", "save it again")
    assert not (tmp_path / "owned").exists()


def test_a_dtype_without_factors_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}
    header = json.dumps({"a": entry}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(AdapterError, match="unsupported dtype F8_E8M0"):
        read_file_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["absent.safetensors", ".", "pipe"])
def test_what_is_not_a_file_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for allow in (None, True):
        with pytest.raises(AdapterError, match="cannot read"):
            read_file_tensors(tmp_path / name, allow_pickle=allow)
