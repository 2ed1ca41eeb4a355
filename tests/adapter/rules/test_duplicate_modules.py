"""Tests of the rules about copies of tensors, and of healthy adapters that look similar."""

from pathlib import Path

import numpy as np

from tests.adapter.adapters import Adapter, P, plain
from tests.adapter.rules.builders import rules_of

A, B = "lora_A.weight", "lora_B.weight"
KINDS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


FAMILIES = ("values",)


def name(kind: str, layer: int, part: str) -> str:
    return f"{P}model.layers.{layer}.{kind}.{part}"


def share_a(adapter: Adapter, kinds: tuple[str, ...]) -> Adapter:
    for kind in kinds:
        adapter.tensors[name(kind, 1, A)] = adapter.tensors[name(kind, 0, A)]
    return adapter


def test_one_a_for_all_layers_is_reported_and_accepted(tmp_path: Path) -> None:
    assert rules_of(share_a(plain(), KINDS), tmp_path, families=FAMILIES) == {"values-shared-a"}


def test_a_shared_a_in_only_some_kinds_of_modules_is_a_copy(tmp_path: Path) -> None:
    assert rules_of(share_a(plain(), KINDS[:3]), tmp_path, families=FAMILIES) == {"values-copied"}


def one_step(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (1e-4 * np.sign(random.normal(size=shape))).astype("f4")


def test_numbers_of_equal_size_after_one_step_of_adam_are_not_copies(tmp_path: Path) -> None:
    adapter, random = plain(), np.random.default_rng(0)
    for layer in (0, 1):
        for kind in KINDS:
            key = name(kind, layer, B)
            adapter.tensors[key] = one_step(random, adapter.array(key).shape)
    near = adapter.array(name(KINDS[0], 0, B)).copy()
    near[0, 0] *= -1  # the gradients of two modules can have almost the same signs
    adapter.tensors[name(KINDS[0], 1, B)] = near
    assert rules_of(adapter, tmp_path, families=FAMILIES) == set()
    near[0, 0] *= -1
    assert rules_of(adapter, tmp_path, families=FAMILIES) == {"values-copied"}


def test_similar_layers_are_not_copies(tmp_path: Path) -> None:
    adapter, random = plain(), np.random.default_rng(1)
    for kind in KINDS:
        one = adapter.array(name(kind, 0, B))
        adapter.tensors[name(kind, 1, B)] = (
            one + random.normal(0, 0.1 * one.std(), one.shape)
        ).astype("f4")
    assert rules_of(adapter, tmp_path, families=FAMILIES) == set()


def test_an_adapter_concatenated_with_itself_has_no_copies(
    tmp_path: Path,
) -> None:
    """add_weighted_adapter("cat") of an adapter with itself repeats its rows of A."""
    adapter = plain()
    for key in [*adapter.names(A), *adapter.names(B)]:
        axis = 0 if key.endswith(A) else 1
        half = np.split(adapter.array(key), 2, axis=axis)[0]
        adapter.tensors[key] = np.concatenate([half, half], axis=axis)
    assert rules_of(adapter, tmp_path, families=FAMILIES) == set()
