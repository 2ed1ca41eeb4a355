"""Shards are joined byte for byte, or rejected with what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.conversion.join_shards import join_shards
from phi3_lora_qa.errors import AdapterError
from tests.adapter.adapters import plain
from tests.adapter.packing import bf16, pack
from tests.adapter.shards import WEIGHTS, save_shards, write_index

SHARD = "adapter_model-{}-of-00003.safetensors"


@pytest.mark.parametrize("index", ["model", "adapter_model"])
def test_every_tensor_is_the_same_and_other_files_are_copied(index: str, tmp_path: Path) -> None:
    adapter = plain()
    first = next(iter(adapter.tensors))
    exact = adapter.array(first)
    adapter.tensors[first] = bf16(exact)
    adapter.files = {"tokenizer.json": b"{}", "lora_qa_manifest.json": b"{}"}
    names = save_shards(adapter, tmp_path / "in", index=index)
    out = tmp_path / "out"
    out.mkdir()
    assert join_shards(AdapterFolder.open(tmp_path / "in"), out) == len(adapter.tensors)
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json", WEIGHTS, "tokenizer.json",
    ]  # fmt: skip
    assert not set(names) & {path.name for path in out.iterdir()}
    with safe_open(out / WEIGHTS, "pt") as joined:
        assert joined.metadata() == {"format": "pt"}
        assert sorted(joined.keys()) == sorted(adapter.tensors)
        for name in joined.keys():  # noqa: SIM118  it is no mapping
            tensor = joined.get_tensor(name)
            if name == first:
                assert str(tensor.dtype) == "torch.bfloat16"
                assert tuple(tensor.shape) == exact.shape
            else:
                assert np.array_equal(tensor.numpy(), adapter.array(name))


def drop(folder: Path) -> None:
    (folder / SHARD.format("00002")).unlink()


def cut(folder: Path) -> None:
    shard = folder / SHARD.format("00003")
    shard.write_bytes(shard.read_bytes()[:-9])


def repeat(folder: Path) -> None:
    first = (folder / SHARD.format("00001")).read_bytes()
    (folder / SHARD.format("00002")).write_bytes(first)


def point_elsewhere(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    owners = json.loads(index.read_text())["weight_map"]
    write_index(index, owners | {next(iter(owners)): "../elsewhere.safetensors"})


def empty(folder: Path) -> None:
    for number in ("00001", "00002", "00003"):
        (folder / SHARD.format(number)).write_bytes(pack({}))
    (folder / "model.safetensors.index.json").unlink()


def link(folder: Path) -> None:
    shard = folder / SHARD.format("00001")
    shard.rename(folder.parent / "elsewhere")
    shard.symlink_to(folder.parent / "elsewhere")


def pickle(folder: Path) -> None:
    for number in ("00001", "00002", "00003"):
        shard = folder / SHARD.format(number)
        shard.rename(shard.with_suffix(".bin"))


def whole(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pack({}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop, "1 of the 3 files of the weights are missing; copy them"),
        (link, "1 of the 3 files of the weights are missing; copy them"),
        (cut, "9 bytes are missing"),
        (repeat, "is in both adapter_model-00001"),
        (point_elsewhere, "model.safetensors.index.json does not list the tensors"),
        (empty, "the files have 0 tensors"),
        (pickle, "has no shards such as"),
        (whole, "the weights are already in one file"),
    ],
)
def test_damaged_sets_are_rejected(
    damage: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    save_shards(plain(), tmp_path / "in")
    damage(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(AdapterError) as caught:
        join_shards(AdapterFolder.open(tmp_path / "in"), tmp_path / "out")
    assert words in str(caught.value)
