"""Copies, and what is like them in healthy adapters."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.adapter.adapters import RANK, Adapter, P, plain, report_on

A, B = "lora_A.weight", "lora_B.weight"
KINDS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def rules(adapter: Adapter, folder: Path) -> set[str]:
    return {f.rule for f in report_on(adapter, folder).findings if f.rule.startswith("values")}


def name(kind: str, layer: int, part: str) -> str:
    return f"{P}model.layers.{layer}.{kind}.{part}"


def share_a(adapter: Adapter, kinds: tuple[str, ...]) -> Adapter:
    for kind in kinds:
        adapter.tensors[name(kind, 1, A)] = adapter.tensors[name(kind, 0, A)]
    return adapter


def test_one_a_for_all_layers_is_told_and_not_refused(tmp_path: Path) -> None:
    assert rules(share_a(plain(), KINDS), tmp_path) == {"values-shared-a"}


def test_one_a_in_two_layers_of_some_kinds_only_is_a_copy(tmp_path: Path) -> None:
    assert rules(share_a(plain(), KINDS[:3]), tmp_path) == {"values-copied"}


def one_step(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (1e-4 * np.sign(random.normal(size=shape))).astype("f4")


def test_one_step_of_adam_leaves_numbers_of_one_size_and_no_copies(tmp_path: Path) -> None:
    adapter, random = plain(), np.random.default_rng(0)
    for layer in (0, 1):
        for kind in KINDS:
            key = name(kind, layer, B)
            adapter.tensors[key] = one_step(random, adapter.array(key).shape)
    near = adapter.array(name(KINDS[0], 0, B)).copy()
    near[0, 0] *= -1  # two modules whose gradients happen to have nearly the same signs
    adapter.tensors[name(KINDS[0], 1, B)] = near
    assert rules(adapter, tmp_path) == set()
    near[0, 0] *= -1
    assert rules(adapter, tmp_path) == {"values-copied"}


def test_what_two_layers_have_alike_is_no_copy(tmp_path: Path) -> None:
    adapter, random = plain(), np.random.default_rng(1)
    for kind in KINDS:
        one = adapter.array(name(kind, 0, B))
        adapter.tensors[name(kind, 1, B)] = (
            one + random.normal(0, 0.1 * one.std(), one.shape)
        ).astype("f4")
    assert rules(adapter, tmp_path) == set()


def test_an_adapter_put_beside_itself_is_no_copy_of_another_module(tmp_path: Path) -> None:
    """add_weighted_adapter("cat") of an adapter with itself: its rows of A come twice."""
    adapter = plain()
    for key in [*adapter.names(A), *adapter.names(B)]:
        axis = 0 if key.endswith(A) else 1
        half = np.split(adapter.array(key), 2, axis=axis)[0]
        adapter.tensors[key] = np.concatenate([half, half], axis=axis)
    assert rules(adapter, tmp_path) == set()


def pad(adapter: Adapter) -> None:
    """Ranks that nobody needed are zero in both factors, as a merge by svd leaves them."""
    for key in adapter.names(A):
        array = adapter.array(key).copy()
        array[RANK // 2 :] = 0
        adapter.tensors[key] = array
    for key in adapter.names(B):
        array = adapter.array(key).copy()
        array[:, RANK // 2 :] = 0
        adapter.tensors[key] = array


def pad_one(adapter: Adapter) -> None:
    for key, at in ((name(KINDS[0], 0, A), np.s_[3:]), (name(KINDS[0], 0, B), np.s_[:, 3:])):
        array = adapter.array(key).copy()
        array[at] = 0
        adapter.tensors[key] = array


def prune_ranks(adapter: Adapter) -> None:
    """What was AdaLoRA: in every module some ranks are off, their scale folded into A."""
    for number, key in enumerate(adapter.names(A)):
        array = adapter.array(key).copy()
        array[number % RANK :: 2] = 0
        adapter.tensors[key] = array


def only_queries(adapter: Adapter) -> None:
    """A LoRA of q_proj alone, turned into one of qkv_proj."""
    for key in adapter.names(f"qkv_proj.{B}"):
        array = adapter.array(key).copy()
        array[32:] = 0
        adapter.tensors[key] = array


@pytest.mark.parametrize("change", [pad, pad_one, prune_ranks, only_queries])
def test_zeros_that_healthy_adapters_have_are_no_torn_tensors(
    change: Callable[[Adapter], None], tmp_path: Path
) -> None:
    adapter = plain()
    change(adapter)
    assert rules(adapter, tmp_path) == set()
