"""Steps on the bytes of any file."""

import struct
from collections.abc import Callable

from phi3_lora_qa.adapter.folder import WEIGHTS
from tests.adapter.fuzzing.hostile_texts import TEMPLATES
from tests.adapter.fuzzing.image import TEMPLATE, Image


def flip(image: Image, file: str, at: int, value: int) -> None:
    data = bytearray(image.files.get(file, b""))
    if data:
        data[at % len(data)] ^= value
        image.files[file] = bytes(data)


def cut(image: Image, file: str, at: int) -> None:
    data = image.files.get(file, b"")
    image.files[file] = data[: at % (len(data) + 1)]


def insert(image: Image, file: str, at: int, content: bytes) -> None:
    data = image.files.get(file, b"")
    at %= len(data) + 1
    image.files[file] = data[:at] + content + data[at:]


def splice(image: Image, file: str, other: str, at: int, size: int) -> None:
    """Overwrite a part of one file with a part of another."""
    data, source = image.files.get(file, b""), image.files.get(other, b"")
    at %= len(data) + 1
    piece = source[at % (len(source) + 1) :][:size]
    image.files[file] = data[:at] + piece + data[at + len(piece) :]


def length(image: Image, value: int) -> None:
    """Declare a different header length."""
    image.files[WEIGHTS] = struct.pack("<Q", value) + image.files[WEIGHTS][8:]


def write(image: Image, file: str, content: bytes, times: int) -> None:
    image.files[file] = content * times


def template(image: Image, index: int) -> None:
    image.files[TEMPLATE] = TEMPLATES[index].encode("utf-8", "surrogatepass")


ON_BYTES: tuple[Callable[..., object], ...] = (flip, cut, insert, splice, length, write, template)
