"""Steps on the tensors of the weights; the file stays valid."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.adapter.safetensors_file import BITS
from tests.adapter.adapters import P
from tests.adapter.fuzzing.image import Image, unpack
from tests.adapter.packing import Raw, bf16, pack
from tests.adapter.tiny_base import module_names


def nth(items: list[str], index: int) -> str | None:
    return items[index % len(items)] if items else None


def filled(dtype: str, shape: tuple[int, ...], fill: str) -> Raw:
    """Return a tensor of this dtype and shape; an empty one instead of more than a megabyte."""
    count = math.prod(shape)
    if count * BITS[dtype] > 8 << 20:
        return dtype, (0,), b""
    kinds: dict[str, type[np.floating[Any]]] = {
        "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.float32,
    }  # fmt: skip
    if dtype not in kinds or count == 0:
        return dtype, shape, bytes(count * BITS[dtype] // 8)
    kind = kinds[dtype]
    info = np.finfo(kind)
    values = {
        "zero": 0.0, "one": 1.0, "nan": math.nan, "infinite": math.inf, "largest": float(info.max),
        "wide": float(info.max) ** 0.6, "smallest": float(info.smallest_subnormal),
    }  # fmt: skip
    if fill in values:
        array = np.full(count, values[fill], kind)
    else:
        exponents = np.random.default_rng(count).uniform(-1, 1, count)
        spread = math.log2(float(info.max)) * (0.99 if fill == "spread" else 0.02)
        array = (np.sign(exponents) * np.exp2(np.abs(exponents) * spread)).astype(kind)
    return bf16(array.reshape(shape)) if dtype == "BF16" else (dtype, shape, array.tobytes())


def on_tensors(change: Callable[..., object]) -> Callable[..., object]:
    """Make a step from a function that changes the tensors."""

    @functools.wraps(change)
    def apply(image: Image, *arguments: Any) -> None:
        tensors = unpack(image.files[WEIGHTS])
        change(tensors, *arguments)
        image.files[WEIGHTS] = pack(tensors)

    return apply


@on_tensors
def tensor(
    tensors: dict[str, Raw], index: int, dtype: str, shape: tuple[int, ...], fill: str
) -> None:
    """Replace one tensor; all offsets stay valid."""
    if name := nth(list(tensors), index):
        tensors[name] = filled(dtype, shape, fill)


@on_tensors
def recast(tensors: dict[str, Raw], end: str, dtype: str, fill: str) -> None:
    """Replace the values of the tensors whose names have this suffix."""
    for name in [name for name in tensors if name.endswith(end)]:
        tensors[name] = filled(dtype, tensors[name][1], fill)


@on_tensors
def retitle(tensors: dict[str, Raw], index: int, name: str) -> None:
    if old := nth(list(tensors), index):
        tensors[name] = tensors.pop(old)


@on_tensors
def repeat(tensors: dict[str, Raw], index: int, name: str) -> None:
    if old := nth(list(tensors), index):
        tensors[name] = tensors[old]


@on_tensors
def lose(tensors: dict[str, Raw], index: int) -> None:
    if name := nth(list(tensors), index):
        tensors.pop(name)


@on_tensors
def swarm(tensors: dict[str, Raw], kind: str, count: int) -> None:
    """Add empty tensors: for modules of a Phi-3 with many layers, or with deep or many names."""
    names = {
        "layers": lambda n: f"{module_names()[n % 4].replace('.0.', f'.{n // 4}.')}.lora_A.weight",
        "deep": lambda n: f"{'a.' * 230}{n}.lora_B.weight",
        "other": lambda n: f"model.layers.{n}.x{n}.y.lora_A.weight",
        "junk": lambda n: f"{n}.lora_a.lora_b.module.x",
    }
    for number in range(min(count, 1500) if kind == "deep" else count):
        tensors.setdefault(P + names[kind](number), ("F32", (1, 0), b""))


ON_TENSORS: tuple[Callable[..., object], ...] = (tensor, recast, retitle, repeat, lose, swarm)
