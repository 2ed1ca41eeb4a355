"""Tests of the rules about complete weights, biases and magnitudes."""

from pathlib import Path

import numpy as np
import pytest

from tests.adapter.adapters import P, report_on
from tests.adapter.healthy import dora, dora_table
from tests.adapter.rules.builders import rules_of

MAGNITUDE = f"{P}model.embed_tokens.lora_magnitude_vector"


FAMILIES = ("values", "base")


@pytest.mark.parametrize("index", [0, 17])
def test_a_small_magnitude_may_cross_zero(index: int, tmp_path: Path) -> None:
    adapter = dora()
    for name in adapter.names("magnitude_vector"):
        array = adapter.array(name).copy()
        array[index] = -0.005
        adapter.tensors[name] = array
    assert rules_of(adapter, tmp_path, families=FAMILIES) == set()


@pytest.mark.parametrize("factor", [-1, 1e5])
def test_magnitudes_of_a_table_are_checked_without_a_base(factor: float, tmp_path: Path) -> None:
    adapter = dora_table()
    adapter.tensors[MAGNITUDE] = adapter.array(MAGNITUDE) * np.float32(factor)
    assert rules_of(adapter, tmp_path, families=FAMILIES) == {"values-magnitude"}


def test_the_median_of_huge_magnitudes_is_reported_with_its_limit(tmp_path: Path) -> None:
    adapter = dora()
    for name in adapter.names("magnitude_vector"):
        adapter.tensors[name] = adapter.array(name) * np.float32(1e4)
    messages = [f.message for f in report_on(adapter, tmp_path).findings]
    assert any("the median magnitude is" in text and "above 1e+03" in text for text in messages)
