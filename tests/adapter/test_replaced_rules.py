"""Whole modules, rows, tables and magnitudes: what training may make of the base's numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa.adapter.rules.saved_modules import _likeness
from tests.adapter.adapters import Adapter, P, report_on
from tests.adapter.healthy import HEALTHY, dora, dora_table, embeddings, saved_head, trained_tokens
from tests.adapter.packing import Array, bf16, pack
from tests.adapter.tiny_base import HIDDEN, VOCABULARY, base_tensors, write_base

HEAD, NORM = f"{P}lm_head.weight", f"{P}model.norm.weight"
ROWS = f"{P}model.embed_tokens.token_adapter.trainable_tokens_delta"
MAGNITUDE = f"{P}model.embed_tokens.lora_magnitude_vector"
TABLE = f"{P}model.embed_tokens.base_layer.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def errors(adapter: Adapter, folder: Path, base: Path | None) -> set[str]:
    found = report_on(adapter, folder, base).findings
    return {f.rule for f in found if f.rule.startswith(("values", "base"))}


def with_tensors(adapter: Adapter, tensors: dict[str, Any]) -> Adapter:
    adapter.tensors |= tensors
    return adapter


def drifted(by: float, *, together: float = 0.0) -> Array:
    """The base's head, each row moved its own way, and all of them one way."""
    random, head = np.random.default_rng(3), base_tensors()["lm_head.weight"]
    own = by * random.normal(0, 0.1, head.shape)
    return np.asarray(head + own + together * random.normal(0, 0.1, HIDDEN), "f4")


@pytest.mark.parametrize(
    ("by", "together"), [(0, 0), (0.1, 0), (1, 0), (3, 0), (0, 30), (1, 10), (0.1, 60)]
)
def test_a_head_that_was_trained_far_is_still_the_bases(
    by: float, together: float, tmp_path: Path, base: Path
) -> None:
    adapter = with_tensors(saved_head(), {HEAD: drifted(by, together=together)})
    assert errors(adapter, tmp_path, base) == set()


def test_likeness_of_unrelated_rows_is_that_of_chance() -> None:
    random = np.random.default_rng(0)
    drawn = [
        _likeness(random.normal(size=(64, d)), random.normal(size=(64, d)))
        for d in (32, 512)
        for _ in range(200)
    ]
    assert np.std(drawn) == pytest.approx(1, abs=0.15)
    assert max(map(abs, drawn)) < 4


def test_a_norm_that_stayed_at_one_is_healthy(tmp_path: Path, base: Path) -> None:
    adapter = with_tensors(saved_head(), {NORM: np.ones(HIDDEN, "f4")})
    assert errors(adapter, tmp_path, base) == set()


def test_rows_of_zeros_that_are_the_bases_own_are_healthy(tmp_path: Path) -> None:
    """Bases pad their tables with zeros, and a padding token's row stays zero in training."""
    tensors = base_tensors()
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name][VOCABULARY // 2 :] = 0
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").write_bytes(pack(tensors))
    head = saved_head()
    head.tensors[HEAD] = tensors["lm_head.weight"] * np.float32(1.01)
    assert errors(head, tmp_path / "head", base) == set()
    rows = trained_tokens()
    array = rows.array(ROWS).copy()
    array[1] = 0  # token 90
    rows.tensors[ROWS] = array
    assert errors(rows, tmp_path / "rows", base) == set()


@pytest.mark.parametrize("index", [0, 17])
def test_a_small_magnitude_may_cross_zero(index: int, tmp_path: Path) -> None:
    adapter = dora()
    for name in adapter.names("magnitude_vector"):
        array = adapter.array(name).copy()
        array[index] = -0.005
        adapter.tensors[name] = array
    assert errors(adapter, tmp_path, None) == set()


@pytest.mark.parametrize("factor", [1e4, 10.0, 0.05])
def test_magnitudes_of_a_table_are_held_against_all_its_tokens(
    factor: float, tmp_path: Path, base: Path
) -> None:
    adapter = dora_table()
    adapter.tensors[MAGNITUDE] = adapter.array(MAGNITUDE) * np.float32(factor)
    assert "base-dora-magnitude" in errors(adapter, tmp_path, base)


def test_one_magnitude_of_a_table_is_held_against_its_column(tmp_path: Path, base: Path) -> None:
    adapter = dora_table()
    array = adapter.array(MAGNITUDE).copy()
    array[5] *= 40
    adapter.tensors[MAGNITUDE] = array
    assert errors(adapter, tmp_path, base) == {"base-dora-magnitude"}


@pytest.mark.parametrize("factor", [-1, 1e5])
def test_magnitudes_of_a_table_are_judged_without_a_base(factor: float, tmp_path: Path) -> None:
    adapter = dora_table()
    adapter.tensors[MAGNITUDE] = adapter.array(MAGNITUDE) * np.float32(factor)
    assert errors(adapter, tmp_path, None) == {"values-magnitude"}


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
def test_a_copy_of_the_table_may_have_been_rounded_or_the_base(
    in_base: str, in_copy: str, tmp_path: Path
) -> None:
    """With numbers so small that float16 loses bits of them."""
    tensors: dict[str, Any] = dict(base_tensors())
    table = tensors["model.embed_tokens.weight"]
    table[:, ::3] *= np.float32(1e-5)
    tensors["model.embed_tokens.weight"] = STORED[in_base](table)
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").write_bytes(pack(tensors))
    adapter = embeddings()
    adapter.tensors[TABLE] = STORED[in_copy](table)
    assert errors(adapter, tmp_path / "adapter", base) == set()
    adapter.tensors[TABLE] = STORED[in_copy](table * np.float32(1.01))
    assert errors(adapter, tmp_path / "other", base) == {"base-embedding-copy"}


@pytest.mark.parametrize("variant", ["plain", "embeddings", "dora", "saved_head", "trained_tokens"])
def test_a_base_without_weights_leaves_their_comparison_unchecked(
    variant: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").unlink()
    report = report_on(HEALTHY[variant](), tmp_path / "adapter", base)
    assert report.accepted
    left = [text for text in report.unchecked if "base weights" in text]
    assert len(left) == 6
    assert not any(rule in report.rules_run for rule in ("base-delta-size", "base-embedding-copy"))
    assert "base-sizes" in report.rules_run


def packed(base: Path, layout: str) -> Path:
    """Write the base's projections as a quantiser does."""
    tensors: dict[str, Any] = {}
    for name, tensor in base_tensors().items():
        rows, columns = tensor.shape if tensor.ndim == 2 else (0, 0)
        stem = name.removesuffix("weight")
        if not name.endswith("proj.weight"):
            tensors[name] = tensor
        elif layout == "bnb":
            tensors[name] = ("U8", (tensor.size // 2, 1), bytes(tensor.size // 2))
            tensors[f"{name}.absmax"] = np.ones(rows, "f4")
        elif layout == "gptq":
            tensors[f"{stem}qweight"] = np.zeros((columns // 8, rows), "int32")
            tensors[f"{stem}scales"] = np.ones((1, rows), "float16")
        else:
            tensors[name] = ("F8_E4M3", tensor.shape, b"\x38" * tensor.size)
    (base / "model.safetensors").write_bytes(pack(tensors))
    return base


@pytest.mark.parametrize("layout", ["bnb", "gptq", "float8"])
@pytest.mark.parametrize("variant", ["plain", "dora", "embeddings", "saved_head"])
def test_modules_and_sizes_of_a_quantised_base_are_its_configs(
    layout: str, variant: str, tmp_path: Path
) -> None:
    base = packed(write_base(tmp_path / "base"), layout)
    report = report_on(HEALTHY[variant](), tmp_path / "adapter", base)
    assert report.accepted, report.findings
    compared = variant in ("embeddings", "saved_head")  # their tables are not quantised
    assert ("base-saved-module" in report.rules_run) is compared
    adapter = HEALTHY["plain"]()
    for name in adapter.names("lora_A.weight"):
        adapter.tensors[name] = np.concatenate([adapter.array(name)] * 2, axis=1)
    found = report_on(adapter, tmp_path / "wide", base).findings
    assert "base-sizes" in {f.rule for f in found}
