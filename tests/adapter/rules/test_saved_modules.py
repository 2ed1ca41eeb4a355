"""Tests of the rules that compare complete modules, token rows and tables with the base."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.rules.saved_modules import _similarity
from tests.adapter.adapters import Adapter, P, report_on
from tests.adapter.healthy import embeddings, saved_head, trained_tokens
from tests.adapter.packing import Array, bf16, pack
from tests.adapter.rules.builders import rules_of
from tests.adapter.tiny_base import HIDDEN, VOCABULARY, base_tensors, write_base

HEAD, NORM = f"{P}lm_head.weight", f"{P}model.norm.weight"
ROWS = f"{P}model.embed_tokens.token_adapter.trainable_tokens_delta"
TABLE = f"{P}model.embed_tokens.base_layer.weight"


FAMILIES = ("values", "base")


def with_tensors(adapter: Adapter, tensors: dict[str, Any]) -> Adapter:
    adapter.tensors |= tensors
    return adapter


def drifted(by: float, *, together: float = 0.0) -> Array:
    """Return the base's head, with each row moved in its own direction and all in one."""
    random, head = np.random.default_rng(3), base_tensors()["lm_head.weight"]
    own = by * random.normal(0, 0.1, head.shape)
    return np.asarray(head + own + together * random.normal(0, 0.1, HIDDEN), "f4")


@pytest.mark.parametrize(
    ("by", "together"), [(1e-4, 0), (0.1, 0), (1, 0), (3, 0), (0, 30), (1, 10), (0.1, 60)]
)
def test_a_head_that_was_trained_a_lot_is_accepted(
    by: float, together: float, tmp_path: Path, base: Path
) -> None:
    adapter = with_tensors(saved_head(), {HEAD: drifted(by, together=together)})
    assert rules_of(adapter, tmp_path, base, families=FAMILIES) == set()


def test_the_similarity_of_unrelated_rows_is_standard_normal() -> None:
    random = np.random.default_rng(0)
    drawn = [
        _similarity(random.normal(size=(64, d)), random.normal(size=(64, d)))
        for d in (32, 512)
        for _ in range(200)
    ]
    assert np.std(drawn) == pytest.approx(1, abs=0.15)
    assert max(map(abs, drawn)) < 4


def test_a_norm_of_ones_is_accepted(tmp_path: Path, base: Path) -> None:
    adapter = with_tensors(saved_head(), {NORM: np.ones(HIDDEN, "f4")})
    assert rules_of(adapter, tmp_path, base, families=FAMILIES) == set()


def test_rows_that_are_zero_in_the_base_too_are_accepted(tmp_path: Path) -> None:
    """Bases pad their tables with zeros, and a padding token's row stays zero in training."""
    tensors = base_tensors()
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name][VOCABULARY // 2 :] = 0
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").write_bytes(pack(tensors))
    head = saved_head()
    head.tensors[HEAD] = tensors["lm_head.weight"] * np.float32(1.01)
    assert rules_of(head, tmp_path / "head", base, families=FAMILIES) == set()
    rows = trained_tokens()
    array = rows.array(ROWS).copy()
    array[1] = 0  # token 90
    rows.tensors[ROWS] = array
    assert rules_of(rows, tmp_path / "rows", base, families=FAMILIES) == set()


def round_bf16(array: Array) -> Array:
    """Round half to even, as casting does."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view("<f4")


STORED = {
    "float32": lambda a: a,
    "float16": lambda a: a.astype("f2"),
    "bfloat16": lambda a: bf16(round_bf16(a)),
    "bfloat16 as float32": round_bf16,
    "bfloat16 as float16": lambda a: round_bf16(a).astype("f2"),
}


@pytest.mark.parametrize(
    ("in_base", "in_copy"),
    [
        ("float32", "float32"),
        ("float32", "float16"),
        ("float32", "bfloat16"),
        ("float16", "float32"),
        ("float16", "float16"),
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16 as float32"),
        ("bfloat16", "bfloat16 as float16"),  # trained in float16 on a bfloat16 base
        ("bfloat16 as float16", "bfloat16"),
    ],
)
def test_a_table_may_be_rounded_in_the_copy_or_in_the_base(
    in_base: str, in_copy: str, tmp_path: Path
) -> None:
    """Some numbers are so small that float16 loses precision."""
    tensors: dict[str, Any] = dict(base_tensors())
    table = tensors["model.embed_tokens.weight"]
    table[:, ::3] *= np.float32(1e-5)
    tensors["model.embed_tokens.weight"] = STORED[in_base](table)
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").write_bytes(pack(tensors))
    adapter = embeddings()
    adapter.tensors[TABLE] = STORED[in_copy](table)
    assert rules_of(adapter, tmp_path / "adapter", base, families=FAMILIES) == set()
    adapter.tensors[TABLE] = STORED[in_copy](table * np.float32(1.01))
    assert rules_of(adapter, tmp_path / "other", base, families=FAMILIES) == {"base-embedding-copy"}


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_a_saved_module_that_equals_the_bases_is_reported_with_its_size(
    dtype: str, tmp_path: Path, base: Path
) -> None:
    adapter = with_tensors(saved_head(), {HEAD: drifted(0).astype(dtype)})
    findings = report_on(adapter, tmp_path / "a", base).findings
    (found,) = [f for f in findings if f.rule == "base-saved-unchanged"]
    assert (found.where, found.severity) == (HEAD, Severity.WARNING)
    assert found.message.startswith("it equals the base's in every number, and takes 0.0 MiB")
    one = drifted(0)
    one[-1, -1] += 1e-3
    assert (
        rules_of(with_tensors(saved_head(), {HEAD: one}), tmp_path / "b", base, families=FAMILIES)
        == set()
    )
