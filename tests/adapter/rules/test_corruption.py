"""Tests of the rules about spikes, repeated blocks and runs of zeros within a factor."""

from pathlib import Path

import numpy as np

from tests.adapter.adapters import Adapter, plain, report_on


def changed(adapter: Adapter, folder: Path) -> list[tuple[str, str]]:
    return [(found.rule, found.message) for found in report_on(adapter, folder).findings]


def test_one_huge_number_is_reported_with_its_value(tmp_path: Path) -> None:
    adapter = plain()
    name = adapter.names("lora_B.weight")[0]
    array = adapter.array(name).copy()
    array[3, 1] = -50
    adapter.tensors[name] = array
    found = changed(adapter, tmp_path)
    assert (
        "values-spike",
        f"one of its {array.size} numbers is 50, and the others are small",
    ) in found


def test_a_block_of_zeros_is_reported_with_its_position(tmp_path: Path) -> None:
    adapter = plain()
    name = adapter.names("o_proj.lora_B.weight")[0]
    array = adapter.array(name).copy()
    array.reshape(-1)[5:75] = 0
    adapter.tensors[name] = array
    message = "70 consecutive numbers are zero, starting at 5"
    assert changed(adapter, tmp_path) == [("values-zero-run", message)]


def test_zero_ranks_of_b_are_not_a_block_of_zeros(tmp_path: Path) -> None:
    adapter = plain()
    name = adapter.names("o_proj.lora_B.weight")[0]
    array = adapter.array(name).copy()
    array[:2] = 0  # fewer rows than a lost shard
    adapter.tensors[name] = array
    assert changed(adapter, tmp_path) == []


def test_a_repeated_block_is_reported_with_the_number_of_parts(tmp_path: Path) -> None:
    adapter = plain()
    name = adapter.names("qkv_proj.lora_B.weight")[0]
    half = np.split(adapter.array(name), 2)[0]
    adapter.tensors[name] = np.concatenate([half, half])
    message = "the second of 2 equal parts is a copy of the first"
    assert changed(adapter, tmp_path) == [("values-repeated", message)]
