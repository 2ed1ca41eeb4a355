"""Tests of the export rules: what vLLM, llama.cpp and merging do not support."""

from pathlib import Path

import pytest

from tests.adapter.adapters import Adapter, factors, plain, report_on
from tests.adapter.healthy import HEALTHY
from tests.adapter.tiny_base import module_names, write_base


@pytest.mark.parametrize(
    ("variant", "rules"),
    [
        ("plain", set()),
        ("bfloat16", set()),
        ("dora", {"export-vllm", "export-llama-cpp"}),
        ("lora_bias", {"export-merge", "export-vllm", "export-llama-cpp"}),
        ("rslora", {"export-scaling"}),
        ("rank_pattern", {"export-scaling"}),
        ("saved_head", {"export-vllm", "export-llama-cpp"}),
        ("embeddings", {"export-vllm"}),
        ("trained_tokens", {"export-vllm", "export-llama-cpp"}),
    ],
)
def test_unsupported_variants_are_reported_and_accepted(
    variant: str, rules: set[str], tmp_path: Path
) -> None:
    report = report_on(HEALTHY[variant](), tmp_path)
    assert {f.rule for f in report.findings if f.rule.startswith("export-")} == rules
    assert report.accepted


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        (16, ""),
        (32, "the rank is 32, but vLLM's default limit is 16"),
        (1024, "supports ranks up to 512"),
    ],
)
def test_ranks_above_the_limits_of_vllm_are_reported(rank: int, words: str, tmp_path: Path) -> None:
    names = module_names(("o_proj",))
    tensors = factors(names, ranks=dict.fromkeys(names, rank))
    adapter = Adapter(config={**plain().config, "r": rank}, tensors=tensors)
    adapter.config["target_modules"] = ["o_proj"]
    found = [f for f in report_on(adapter, tmp_path).findings if f.rule == "export-vllm"]
    assert len(found) == bool(words)
    assert all(words in f.message for f in found)


@pytest.mark.parametrize(("rank", "limit"), [(24, 32), (48, 64), (65, 128), (300, 320), (512, 512)])
def test_the_named_limit_is_one_that_vllm_accepts(rank: int, limit: int, tmp_path: Path) -> None:
    names = module_names(("o_proj",))
    tensors = factors(names, ranks=dict.fromkeys(names, rank))
    adapter = Adapter(config={**plain().config, "r": rank}, tensors=tensors)
    adapter.config["target_modules"] = ["o_proj"]
    (found,) = [f for f in report_on(adapter, tmp_path).findings if f.rule == "export-vllm"]
    assert found.fix == f"start vLLM with --max-lora-rank {limit} or more"


def test_merging_that_unties_the_tables_is_reported(tmp_path: Path) -> None:
    tied = write_base(tmp_path / "base", tie_word_embeddings=True)
    for variant, reported in (("saved_head", True), ("plain", False)):
        report = report_on(HEALTHY[variant](), tmp_path / variant, tied)
        assert ("export-tied-tables" in {f.rule for f in report.findings}) is reported


def test_a_different_scaling_in_another_program_is_reported_with_its_value(tmp_path: Path) -> None:
    report = report_on(HEALTHY["rslora"](), tmp_path)
    (found,) = [f for f in report.findings if f.rule == "export-scaling"]
    assert "llama.cpp scales 8 of 8 modules differently" in found.message
    assert "by 2 instead of 4" in found.message
