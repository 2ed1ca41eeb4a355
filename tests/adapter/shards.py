"""Builders of adapters whose weights are in several files, as transformers saves large ones."""

import json
from collections.abc import Mapping
from pathlib import Path

from tests.adapter.adapters import Adapter
from tests.adapter.packing import Array, Raw, pack

WEIGHTS = "adapter_model.safetensors"


def save_shards(adapter: Adapter, folder: Path, count: int = 3, index: str = "model") -> list[str]:
    """Save an adapter in ``count`` shards with an index, and return the names of the shards."""
    adapter.save(folder)
    (folder / WEIGHTS).unlink()
    parts: list[dict[str, Array | Raw]] = [{} for _ in range(count)]
    for number, (name, tensor) in enumerate(adapter.tensors.items()):
        parts[number % count][name] = tensor
    names = [f"adapter_model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_bytes(pack(part))
    owners = {t: name for name, part in zip(names, parts, strict=True) for t in part}
    write_index(folder / f"{index}.safetensors.index.json", owners)
    return names


def write_index(path: Path, owners: Mapping[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": dict(owners)}))
