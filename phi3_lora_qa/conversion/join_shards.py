"""Joins the shards of an adapter's weights into the one file that peft loads, byte for byte."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from phi3_lora_qa.adapter.folder import MANIFEST, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.safetensors_file import (
    BITS,
    MAX_TENSORS,
    SafetensorsFile,
    TensorInfo,
    open_safetensors,
)
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.adapter.weight_shards import INDEXES, find_shards
from phi3_lora_qa.errors import AdapterError, escape

_MAX_INDEX = 32 << 20
_CHUNK = 1 << 20
_AGAIN = "copy all files of the training output again"


def join_shards(source: AdapterFolder, folder: Path) -> int:
    """Write an adapter with its weights in one file into an existing folder.

    The other files that ship are copied, apart from the index and the manifest, whose hashes are
    those of the shards.

    Args:
        source: The adapter, which may be untrusted.
        folder: The folder to write to.

    Returns:
        The number of tensors.

    Raises:
        AdapterError: There are no shards, one is missing or damaged, or the index names others.

    Example:
        >>> from phi3_lora_qa.models.registry import bundled
        >>> join_shards(AdapterFolder.open(bundled("tiny") / "adapter"), Path("unused"))
        Traceback (most recent call last):
        phi3_lora_qa.errors.AdapterError: the weights are already in one file; ...
    """
    found = find_shards(filter(source.file, source.entries))
    if WEIGHTS in source.entries:
        raise AdapterError("the weights are already in one file", "use the adapter as it is")
    if found is None or found.is_pickle:
        raise AdapterError(
            f"{escape(str(source.path))} has no shards such as "
            "adapter_model-00001-of-00002.safetensors",
            "pass the folder that contains them",
        )
    if found.missing:
        raise AdapterError(
            f"{found.missing} of the {found.total} files of the weights are missing",
            "copy them from the training output",
        )
    shards = {name: open_safetensors(partial(source.open_file, name), name) for name in found.names}
    owners = _owners(shards)
    _require_index(source, owners)
    _write(folder / WEIGHTS, shards, owners)
    left_out = {*found.names, *INDEXES, MANIFEST}
    for name in source.shipped:
        if name not in left_out:
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            with source.open_file(name) as content, target.open("wb") as copy:
                while chunk := content.read(_CHUNK):
                    copy.write(chunk)
    return len(owners)


def _owners(shards: Mapping[str, SafetensorsFile]) -> dict[str, str]:
    """Return the shard of each tensor."""
    owners: dict[str, str] = {}
    for shard, file in shards.items():
        for name in file.tensors:
            if name in owners:
                raise AdapterError(
                    f"the tensor {escape(name, 160)} is in both {owners[name]} and {shard}", _AGAIN
                )
            owners[name] = shard
    if not 0 < len(owners) <= MAX_TENSORS:
        raise AdapterError(
            f"the files have {len(owners)} tensors, from 1 to {MAX_TENSORS} are allowed", _AGAIN
        )
    return owners


def _require_index(source: AdapterFolder, owners: Mapping[str, str]) -> None:
    """Raise if an index lists other tensors than the files have: one of them is of another run."""
    for name in filter(source.file, INDEXES):
        data = source.read_bytes(name, _MAX_INDEX)
        listed = parse_object(data, where=name, max_bytes=_MAX_INDEX).get("weight_map")
        if listed != dict(owners):
            raise AdapterError(f"{name} does not list the tensors that the files have", _AGAIN)


def _write(path: Path, shards: Mapping[str, SafetensorsFile], owners: Mapping[str, str]) -> None:
    """Write the tensors, the wide dtypes first as safetensors does, so that all are aligned."""
    infos = sorted(
        (shards[shard].tensors[name] for name, shard in owners.items()),
        key=lambda info: (-BITS[info.dtype], info.name),
    )
    position, header = 0, dict[str, object](__metadata__={"format": "pt"})
    for info in infos:
        end = position + info.stop - info.start
        header[info.name] = {
            "dtype": info.dtype, "shape": list(info.shape), "data_offsets": [position, end],
        }  # fmt: skip
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for info in infos:
            for chunk in _chunks(shards[owners[info.name]], info):
                out.write(chunk)


def _chunks(file: SafetensorsFile, info: TensorInfo) -> Iterator[bytes]:
    with file.opener() as handle:
        handle.seek(info.start)
        left = info.stop - info.start
        while left:
            chunk = handle.read(min(left, _CHUNK))
            if not chunk:
                raise AdapterError(f"{file.label} became shorter while it was being read", _AGAIN)
            left -= len(chunk)
            yield chunk
