"""Reads all tensors of an untrusted file: safetensors after a check, or a pickle on request."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.safetensors_file import READABLE, SafetensorsFile, open_safetensors
from phi3_lora_qa.errors import AdapterError, escape
from phi3_lora_qa.reading import open_regular, read_regular, require_regular

if TYPE_CHECKING:
    from torch import Tensor

MAX_WEIGHTS_BYTES = 8 << 30
_DTYPES = (*READABLE, "I64", "I32")
"""Integers occur as single numbers, such as an alpha; a factor of integers is rejected later."""

_MAGIC = (b"PK\x03\x04", b"\x80")


def read_folder_tensors(folder: AdapterFolder, name: str) -> "dict[str, Tensor]":
    """Return the tensors of a file in an adapter folder, by name, in order.

    Raises:
        AdapterError: The file is missing, unreadable or not a valid safetensors file.
    """
    _require_plain_dtypes(open_safetensors(lambda: folder.open_file(name), name))
    return _loaded(folder.read_bytes(name, MAX_WEIGHTS_BYTES))


def read_file_tensors(path: Path, *, allow_pickle: bool | None = None) -> "dict[str, Tensor]":
    """Return the tensors of a single file, by name, in order.

    Args:
        path: A safetensors file, or a file of torch.save.
        allow_pickle: Whether to read a pickle, too; torch then loads only tensors. None if the
            caller has no option for that.

    Raises:
        AdapterError: As `read_folder_tensors`, or the file is a pickle that is not allowed.
    """
    shown = escape(str(path), 200)
    try:
        if is_pickle(path) and allow_pickle is not None:
            if not allow_pickle:
                raise AdapterError(
                    f"{shown} was written by torch.save: it is a pickle, which can run code when "
                    "it is read",
                    "if you trust its source, pass --allow-pickle (torch then loads only tensors)",
                )
            require_regular(path, MAX_WEIGHTS_BYTES)
            return unpickle(path, "save its tensors with safetensors.torch.save_file")
        _require_plain_dtypes(open_safetensors(lambda: open_regular(path), path.name))
        return _loaded(read_regular(path, MAX_WEIGHTS_BYTES))
    except OSError as error:
        raise AdapterError(
            f"cannot read {shown}: {error.strerror}", "pass the file that the training wrote"
        ) from error


def is_pickle(path: Path) -> bool:
    """Return whether torch.save wrote a file, judging by its first bytes.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    with open_regular(path) as handle:
        head = handle.read(9)
    return head.startswith(_MAGIC) and head[8:9] != b"{"


def unpickle(path: Path, fix: str) -> "dict[str, Tensor]":
    """Return the tensors of a file of torch.save, which loads only tensors here.

    Args:
        path: The file.
        fix: What to do if it contains more than tensors.

    Raises:
        AdapterError: The file does not contain a dictionary of tensors and nothing else.
    """
    import torch

    shown = escape(str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle formats
            content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a hostile pickle can raise anything
        reason = escape(str(error).partition("\n")[0], 200)
        raise AdapterError(f"cannot load only tensors from {shown}: {reason}", fix) from error
    if not isinstance(content, dict) or not all(
        isinstance(n, str) and isinstance(t, torch.Tensor) and _is_stored(t)
        for n, t in content.items()
    ):
        raise AdapterError(f"{shown} is not a dictionary of dense tensors", fix)
    return dict(sorted(content.items()))


def _is_stored(tensor: "Tensor") -> bool:
    """Whether the file contains every number: a sparse or repeated tensor can be of any size."""
    import torch

    size = tensor.numel() * tensor.element_size()
    is_dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return is_dense and size <= tensor.untyped_storage().nbytes()


def _loaded(data: bytes) -> "dict[str, Tensor]":
    from safetensors.torch import load

    # The library returns them in an order that changes between runs.
    return dict(sorted(load(data).items()))


def _require_plain_dtypes(file: SafetensorsFile) -> None:
    for info in file.tensors.values():
        if info.dtype not in _DTYPES:
            raise AdapterError(
                f"{escape(info.name, 160)} in {file.label} has the unsupported dtype {info.dtype}",
                "save the adapter in float32, bfloat16 or float16",
            )
