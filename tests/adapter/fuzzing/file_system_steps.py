"""Steps on the file system: links, pipes, sparse files, permissions and names."""

import json
import math
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from phi3_lora_qa.adapter.folder import CONFIG, MODEL_CARD, WEIGHTS
from tests.adapter.fuzzing.image import TEMPLATE, Image, split, unpack
from tests.adapter.packing import pack


def call(image: Image, name: str) -> None:
    """Rename the folder itself."""
    image.name = name


def link(image: Image, name: str, kind: str) -> None:
    targets: dict[str, str | Path] = {
        "outside": image.room / "outside" / (name if name in (CONFIG, WEIGHTS) else TEMPLATE),
        "inside": MODEL_CARD, "dangling": "nothing-here", "loop": name, "parent": "..",
        "endless": "/dev/zero",
    }  # fmt: skip
    if kind == "moved":
        image.regular(name).rename(image.folder / "kept")
        (image.folder / name).symlink_to("kept")
    else:
        image.vacant(name).symlink_to(targets[kind])


def special(image: Image, name: str, kind: str) -> None:
    path = image.vacant(name)
    if kind == "folder":
        path.mkdir()
        (path / CONFIG).write_text("{}")
    else:
        os.mknod(path, 0o600 | (stat.S_IFIFO if kind == "pipe" else stat.S_IFSOCK))


def beside(image: Image, name: str, content: bytes) -> None:
    """Add a file with any name that the file system accepts."""
    image.vacant(name).write_bytes(content)


def many(image: Image, count: int) -> None:
    for number in range(count):
        (image.folder / f"n{number}").touch()


def sparse(image: Image, name: str, size: int) -> None:
    """Extend a file by a hole."""
    if name in image.files:
        path = image.regular(name)
    else:
        path = image.vacant(name)
        path.touch()
    os.truncate(path, max(size, path.stat().st_size))


def sparse_tensor(image: Image, index: int, columns: int) -> None:
    """Declare a tensor of gigabytes in a sparse file that really has this size."""
    path = image.regular(WEIGHTS)
    try:
        tensors = unpack(image.files[WEIGHTS])
        name = list(tensors)[index % len(tensors)]
        rows = (*tensors.pop(name)[1], 4)[0]
        text, data = split(pack(tensors))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return  # an earlier step has corrupted the file already
    header = json.loads(text)
    shape = [min(rows, 1 << 10), columns]
    stop = len(data) + 4 * math.prod(shape)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), stop]}
    text = json.dumps(header).encode()
    with path.open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text + data)
        handle.truncate(8 + len(text) + stop)


def closed(image: Image, name: str) -> None:
    """Remove the read permission; root can still read."""
    image.regular(name).chmod(0)


def remove(image: Image, name: str) -> None:
    image.vacant(name)


def instead(image: Image, kind: str) -> None:
    """Replace the adapter's path by something that is not a folder."""
    folder, away = image.folder, image.room / "away"
    folder.rename(away)
    if kind == "link":
        folder.symlink_to(away)
    elif kind == "loop":
        folder.symlink_to(folder.name)
    elif kind == "file":
        folder.write_text("{}")
    elif kind == "pipe":
        os.mkfifo(folder)


ON_FILE_SYSTEM: tuple[Callable[..., object], ...] = (
    link,
    special,
    beside,
    many,
    sparse,
    sparse_tensor,
    closed,
    remove,
    instead,
)
