"""Tests of the rule that compares DoRA magnitudes with the norms of the base's rows."""

from pathlib import Path

import numpy as np
import pytest

from tests.adapter.adapters import P
from tests.adapter.healthy import dora_table
from tests.adapter.rules.builders import rules_of

MAGNITUDE = f"{P}model.embed_tokens.lora_magnitude_vector"


FAMILIES = ("values", "base")


@pytest.mark.parametrize("factor", [1e4, 10.0, 0.05])
def test_magnitudes_of_a_table_are_compared_with_norms_over_all_tokens(
    factor: float, tmp_path: Path, base: Path
) -> None:
    adapter = dora_table()
    adapter.tensors[MAGNITUDE] = adapter.array(MAGNITUDE) * np.float32(factor)
    assert "base-dora-magnitude" in rules_of(adapter, tmp_path, base, families=FAMILIES)


def test_one_magnitude_of_a_table_is_compared_with_its_column(tmp_path: Path, base: Path) -> None:
    adapter = dora_table()
    array = adapter.array(MAGNITUDE).copy()
    array[5] *= 40
    adapter.tensors[MAGNITUDE] = array
    assert rules_of(adapter, tmp_path, base, families=FAMILIES) == {"base-dora-magnitude"}
