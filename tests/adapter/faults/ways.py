"""The changes that make the faults.

A change is a function of an `Adapter` and a place, 0 for the first tensor of its kind and 1 for the
last. Changes of the written folder are added to ``adapter.after``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.adapter.adapters import Adapter
from tests.adapter.tiny_base import HIDDEN

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault. ``places`` is False if there is only one place for it."""

    rule: str
    apply: Callable[[Adapter, float], object]
    fits: Callable[[str], bool] = lambda variant: True
    places: bool = False
    base_only: bool = False


def with_files(files: dict[str, bytes]) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.files.update(files)


def at(names: list[str], place: float) -> str:
    return names[round((len(names) - 1) * place)]


def one_b(adapter: Adapter, place: float) -> str:
    return at(adapter.names("lora_B.weight"), place)


def one_a(adapter: Adapter, place: float) -> str:
    return at(adapter.names("lora_A.weight"), place)


def put(value: float) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        name = at(list(adapter.tensors), place)
        array = adapter.array(name).copy()
        array.reshape(-1)[round((array.size - 1) * place)] = value
        adapter.tensors[name] = array

    return apply


def scale(name: Callable[[Adapter, float], str], by: float) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        key = name(adapter, place)
        adapter.tensors[key] = adapter.array(key) * np.float32(by)

    return apply


def scale_all(end: str, by: float) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        for name in adapter.names(end):
            adapter.tensors[name] = adapter.array(name) * np.float32(by)

    return apply


def shape(change: Callable[[Any], Any], kind: Callable[[Adapter, float], str] = one_b) -> Any:
    def apply(adapter: Adapter, place: float) -> None:
        name = kind(adapter, place)
        adapter.tensors[name] = np.ascontiguousarray(change(adapter.array(name)))

    return apply


def drop(end: str) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.tensors.pop(at(adapter.names(end), place))


def config(**fields: Any) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.config.update(fields)


def without(field: str) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.config.pop(field)


def rename(change: Callable[[str], str]) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.rename(change)


def rename_one(change: Callable[[str], str]) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        chosen = one_b(adapter, place)
        adapter.rename(lambda name: change(name) if name == chosen else name)

    return apply


def add(name: str, *shape: int) -> Callable[[Adapter, float], object]:
    def apply(adapter: Adapter, place: float) -> None:
        adapter.tensors[name] = np.linspace(0.1, 1, int(np.prod(shape)), dtype="f4").reshape(shape)

    return apply


def afterwards(step: Callable[[Path], object]) -> Callable[[Adapter, float], object]:
    return lambda adapter, place: adapter.after.append(step)


def rewrite(change: Callable[[bytes], bytes], name: str = WEIGHTS) -> Any:
    def step(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return afterwards(step)


def swap_all(adapter: Adapter, place: float) -> None:
    swap = {"lora_A": "lora_B", "lora_B": "lora_A"}
    adapter.rename(lambda n: ".".join(swap.get(part, part) for part in n.split(".")))


def cut_layer(adapter: Adapter, place: float) -> None:
    adapter.tensors = {n: t for n, t in adapter.tensors.items() if ".layers.0." not in n}


def shift_layers(adapter: Adapter, place: float) -> None:
    adapter.rename(lambda n: n.replace(".layers.1.", ".layers.7."))


def shard_all(adapter: Adapter, place: float) -> None:
    for name in adapter.names("qkv_proj.lora_A.weight"):
        adapter.tensors[name] = adapter.array(name)[:, : HIDDEN // 2].copy()


def double(adapter: Adapter, place: float) -> None:
    name = one_b(adapter, place)
    adapter.tensors[name.replace(".weight", ".default.weight")] = adapter.tensors[name]


def copy_a_b(adapter: Adapter, place: float) -> None:
    for kind in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"):
        names = adapter.names(f"{kind}.lora_B.weight")
        if len(names) > 1:
            adapter.tensors[names[1]] = adapter.tensors[names[0]]
            return


def copy_a(adapter: Adapter, place: float) -> None:
    name = at(adapter.names("layers.0.self_attn.qkv_proj.lora_A.weight"), place)
    adapter.tensors[name.replace(".0.", ".1.")] = adapter.tensors[name]


def copy_nearly(factor: float) -> Callable[[Adapter, float], object]:
    """Copy a B times a factor, with one element changed."""

    def apply(adapter: Adapter, place: float) -> None:
        name = at(adapter.names("layers.0.self_attn.qkv_proj.lora_B.weight"), place)
        copied = adapter.array(name) * np.float32(factor)
        copied[0, 0] = 0.5
        adapter.tensors[name.replace(".0.", ".1.")] = copied

    return apply


def copy_magnitudes(adapter: Adapter, place: float) -> None:
    name = at(adapter.names("layers.0.mlp.down_proj.lora_magnitude_vector"), place)
    adapter.tensors[name.replace(".0.", ".1.")] = adapter.tensors[name]


def cancel(adapter: Adapter, name: str) -> None:
    """Make the second half of the components cancel the first."""
    other = name.replace("lora_B", "lora_A")
    a, b = adapter.array(other).copy(), adapter.array(name).copy()
    half = len(a) // 2
    a[half:], b[:, half:] = a[:half], -b[:, :half]
    adapter.tensors |= {other: a, name: b}


def cancel_all(adapter: Adapter, place: float) -> None:
    for name in adapter.names("lora_B.weight"):
        cancel(adapter, name)


def cancel_one(adapter: Adapter, place: float) -> None:
    cancel(adapter, one_b(adapter, place))


def whole(end: str, change: Callable[[Any], Any]) -> Callable[[Adapter, float], object]:
    """Change every tensor whose name has this end."""

    def apply(adapter: Adapter, place: float) -> None:
        for name in adapter.names(end):
            adapter.tensors[name] = np.ascontiguousarray(change(adapter.array(name).copy()))

    return apply


def with_one(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array.reshape(-1)[array.size // 3] = value
        return array

    return change


def end_in_zeros(share: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        changed = array.copy()
        changed.reshape(-1)[round(array.size * (1 - share)) :] = 0
        return changed

    return change


def repeat_half(axis: int) -> Callable[[Any], Any]:
    """Replace the second half of an axis with the first, as a wrong gather does."""

    def change(array: Any) -> Any:
        half = np.take(array, range(array.shape[axis] // 2), axis)
        return np.concatenate([half, half], axis)

    return change


def hole(array: Any) -> Any:
    """Zero a range from the middle of one row to the middle of another, as a lost block does."""
    changed = array.copy()
    changed.reshape(-1)[array.size // 3 | 1 : array.size // 3 + max(66, array.size // 4) | 1] = 0
    return changed


def in_another_order(array: Any) -> Any:
    return array[np.random.default_rng(5).permutation(len(array))]


def copy_bias(adapter: Adapter, place: float) -> None:
    first, *_, last = adapter.names("qkv_proj.lora_B.bias")
    adapter.tensors[last] = adapter.tensors[first]


def gauge(by: float) -> Callable[[Adapter, float], object]:
    """Scale every A up and every B down, with the same product."""

    def apply(adapter: Adapter, place: float) -> None:
        for end, factor in (("lora_A.weight", by), ("lora_B.weight", 1 / by)):
            scale_all(end, factor)(adapter, place)

    return apply


def ramp(array: Any) -> Any:
    return (np.arange(array.size, dtype="f4") / 1e4).reshape(array.shape)


def one_component_filled(array: Any) -> Any:
    changed = array.copy()
    changed[:, 1] = 0.1
    return changed


def of_another_model(array: Any) -> Any:
    return np.random.default_rng(11).normal(0, 0.1, array.shape).astype("f4")


def clip_to_float16(adapter: Adapter, place: float) -> None:
    for name in adapter.names("lora_B.weight"):
        adapter.tensors[name] = adapter.array(name).astype("float16")
    name = one_b(adapter, place)
    adapter.array(name).flat[0] = 65504


def widen(adapter: Adapter, place: float) -> None:
    for name in adapter.names("lora_A.weight"):
        adapter.tensors[name] = np.concatenate([adapter.array(name)] * 2, axis=1)


def link(folder: Path) -> None:
    (folder / "outside").symlink_to("/etc/hostname")


def weights_link(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "blob")
    (folder / WEIGHTS).symlink_to("blob")


def only_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02}.")


def linear(variant: str) -> bool:
    return variant not in ("float16", "bfloat16")


def fixed_layers(variant: str) -> bool:
    """Whether layer 0 follows from the config alone."""
    return variant not in ("one_layer", "full_names") and linear(variant)


def listed(variant: str) -> bool:
    return variant in ("plain", "rslora", "gaussian", "dora", "rank_pattern", "lora_bias")


def only(*variants: str) -> Callable[[str], bool]:
    return lambda variant: variant in variants


def trained_b(variant: str) -> bool:
    return linear(variant)
