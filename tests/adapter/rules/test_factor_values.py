"""Tests of the rules about the values of the factors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.adapter.adapters import RANK, Adapter, plain, report_on

A, B = "lora_A.weight", "lora_B.weight"
FIRST = "base_model.model.model.layers.0.self_attn.qkv_proj."


def pad(adapter: Adapter) -> None:
    """Make unused ranks zero in both factors, as a merge by SVD does."""
    for key in adapter.names(A):
        array = adapter.array(key).copy()
        array[RANK // 2 :] = 0
        adapter.tensors[key] = array
    for key in adapter.names(B):
        array = adapter.array(key).copy()
        array[:, RANK // 2 :] = 0
        adapter.tensors[key] = array


def pad_one(adapter: Adapter) -> None:
    for key, at in ((FIRST + A, np.s_[3:]), (FIRST + B, np.s_[:, 3:])):
        array = adapter.array(key).copy()
        array[at] = 0
        adapter.tensors[key] = array


def prune_ranks(adapter: Adapter) -> None:
    """Disable some ranks in every module, as converted AdaLoRA has them: zero in A only."""
    for number, key in enumerate(adapter.names(A)):
        array = adapter.array(key).copy()
        array[number % RANK :: 2] = 0
        adapter.tensors[key] = array


def only_queries(adapter: Adapter) -> None:
    """Make an adapter of q_proj only, converted to qkv_proj."""
    for key in adapter.names(f"qkv_proj.{B}"):
        array = adapter.array(key).copy()
        array[32:] = 0
        adapter.tensors[key] = array


@pytest.mark.parametrize("change", [pad, pad_one, prune_ranks, only_queries])
def test_zeros_in_healthy_adapters_are_not_truncated_tensors(
    change: Callable[[Adapter], None], tmp_path: Path
) -> None:
    adapter = plain()
    change(adapter)
    found = report_on(adapter, tmp_path).findings
    assert [f for f in found if f.rule.startswith("values")] == []


@pytest.mark.parametrize(("used", "reported"), [(RANK, True), (RANK - 1, False)])
def test_ranks_that_are_padding_do_not_make_a_collapse(
    used: int, reported: bool, tmp_path: Path
) -> None:
    adapter = plain()
    for key in adapter.names(B):
        array = adapter.array(key).copy()
        array[:, 1:used] = array[:, :1] * np.arange(2, used + 1, dtype="f4")
        array[:, used:] = 0
        adapter.tensors[key] = array
    for key in adapter.names(A):
        array = adapter.array(key).copy()
        array[used:] = 0
        adapter.tensors[key] = array
    rules = {f.rule for f in report_on(adapter, tmp_path).findings}
    assert ("values-rank-collapse" in rules) is reported


def test_an_untrained_adapter_is_reported_with_the_cause(tmp_path: Path) -> None:
    adapter = plain()
    for key in adapter.names(B):
        adapter.tensors[key] = np.zeros_like(adapter.array(key))
    (found,) = [f for f in report_on(adapter, tmp_path).findings if f.rule == "values-untrained"]
    assert found.message == "every module's delta is zero (B is zero): the base runs unchanged"
