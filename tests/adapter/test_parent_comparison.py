"""What training did to each module: nothing, rounding, other factors, or a change."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.parent_adapter import Change, open_parent
from phi3_lora_qa.adapter.parent_comparison import compare_with_parent
from tests.adapter.adapters import Adapter, plain
from tests.adapter.healthy import HEALTHY
from tests.adapter.packing import bf16


def changes(own: Adapter, parent: Adapter, folder: Path) -> set[Change]:
    opened = [
        open_parent(AdapterFolder.open(adapter.save(folder / name)))
        for name, adapter in (("own", own), ("parent", parent))
    ]
    return set(compare_with_parent(*opened).values())


def rescale(adapter: Adapter, by: float) -> None:
    """Multiply B by a number and divide A by it."""
    for end, factor in (("lora_A.weight", 1 / by), ("lora_B.weight", by)):
        for name in adapter.names(end):
            adapter.tensors[name] = adapter.array(name) * np.float32(factor)


def rotate(adapter: Adapter) -> None:
    """Replace A by Q·A and B by B·Qᵀ."""
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))
    for name in adapter.names("lora_A.weight"):
        other = name.replace("lora_A", "lora_B")
        adapter.tensors[name] = (q @ adapter.array(name)).astype("float32")
        adapter.tensors[other] = (adapter.array(other) @ q.T).astype("float32")


def pad(adapter: Adapter) -> None:
    """Double the rank with zeros; alpha keeps the scaling."""
    adapter.config |= {"r": 8, "lora_alpha": 16}
    for name in adapter.names("lora_A.weight"):
        other = name.replace("lora_A", "lora_B")
        adapter.tensors[name] = np.pad(adapter.array(name), ((0, 4), (0, 0)))
        adapter.tensors[other] = np.pad(adapter.array(other), ((0, 0), (0, 4)))


def move_alpha(adapter: Adapter) -> None:
    """Halve alpha and double B."""
    adapter.config["lora_alpha"] = 4
    for name in adapter.names("lora_B.weight"):
        adapter.tensors[name] = adapter.array(name) * 2


def move_alpha_and_rescale(adapter: Adapter) -> None:
    move_alpha(adapter)
    rescale(adapter, 3)


REWRITTEN: dict[str, Callable[[Adapter], object]] = {
    "rescaled": lambda adapter: rescale(adapter, 3),
    "negated": lambda adapter: rescale(adapter, -1),
    "rotated": rotate,
    "padded": pad,
    "another alpha": move_alpha_and_rescale,
}


@pytest.mark.parametrize("kind", REWRITTEN)
def test_the_same_delta_from_other_factors_is_recognised(kind: str, tmp_path: Path) -> None:
    own = plain()
    REWRITTEN[kind](own)
    assert changes(own, plain(), tmp_path) == {Change.REWRITTEN}


@pytest.mark.parametrize("variant", HEALTHY)
def test_every_variant_equals_itself(variant: str, tmp_path: Path) -> None:
    assert changes(HEALTHY[variant](), HEALTHY[variant](), tmp_path) == {Change.NONE}


def to_float16(array: np.ndarray) -> np.ndarray:
    return array.astype("float16")


def to_float64(array: np.ndarray) -> np.ndarray:
    return array.astype("float64")


def rounded_in_float32(array: np.ndarray) -> np.ndarray:
    return array.astype("float16").astype("float32")


@pytest.mark.parametrize(
    ("cast", "expected"),
    [
        (to_float16, Change.ROUNDED),
        (bf16, Change.ROUNDED),
        (rounded_in_float32, Change.ROUNDED),
        (to_float64, Change.NONE),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_another_dtype_of_the_same_numbers_is_recognised(
    cast: Callable[..., object], expected: Change, turned: bool, tmp_path: Path
) -> None:
    own, parent = plain(), plain()
    for name in own.tensors:
        own.tensors[name] = cast(own.array(name))  # type: ignore[assignment]
    pair = (parent, own) if turned else (own, parent)
    assert changes(*pair, tmp_path) == {expected}


def test_bfloat16_and_float16_of_the_same_numbers_are_recognised(tmp_path: Path) -> None:
    own, parent = plain(), plain()
    for name in own.tensors:
        own.tensors[name] = bf16(own.array(name))
        parent.tensors[name] = parent.array(name).astype("float16")
    assert changes(own, parent, tmp_path) == {Change.ROUNDED}


@given(seed=st.integers(0, 1000), step=st.sampled_from([1e-1, 1e-3, 1e-5, 1e-6]))
def test_a_step_of_training_however_small_is_a_change(
    seed: int, step: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both factors move, relative to their own size, and so does the delta."""
    own, random = plain(), np.random.default_rng(seed)
    for name in own.tensors:
        array = own.array(name)
        moved = array * (1 + step * random.normal(size=array.shape))
        own.tensors[name] = moved.astype("float32")
    assert changes(own, plain(), tmp_path_factory.mktemp("step")) == {Change.CHANGED}


@pytest.mark.parametrize("end", ["lora_A.weight", "lora_B.weight"])
def test_a_change_of_one_factor_is_a_change(end: str, tmp_path: Path) -> None:
    own = plain()
    for name in own.names(end):
        array = own.array(name).copy()
        array[-1, -1] += np.float32(1e-3)
        own.tensors[name] = array
    assert changes(own, plain(), tmp_path) == {Change.CHANGED}


def test_a_step_that_is_stored_in_bfloat16_is_a_change(tmp_path: Path) -> None:
    own, parent, random = plain(), plain(), np.random.default_rng(0)
    for name in own.tensors:
        array = own.array(name)
        parent.tensors[name] = bf16(array)
        own.tensors[name] = bf16(
            (array * (1 + 0.01 * random.normal(size=array.shape))).astype("float32")
        )
    assert changes(own, parent, tmp_path) == {Change.CHANGED}


def test_a_module_that_the_parent_lacks_is_added(tmp_path: Path) -> None:
    parent = copy.deepcopy(plain())
    first = next(iter(parent.tensors)).rpartition(".lora_")[0]
    parent.tensors = {n: t for n, t in parent.tensors.items() if not n.startswith(first)}
    assert changes(plain(), parent, tmp_path) == {Change.NONE, Change.ADDED}
