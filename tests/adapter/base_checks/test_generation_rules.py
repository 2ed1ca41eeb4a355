"""Tests of the rules on generation_config.json."""

from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.finding import Severity
from tests.adapter.base_variants import GENERATION, copy_base, edit_json, findings_on


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", 1.1),
        ("no_repeat_ngram_size", 3),
        ("min_length", 5),
        ("min_new_tokens", 1),
        ("suppress_tokens", [5]),
        ("begin_suppress_tokens", [5, 6]),
        ("forced_eos_token_id", 741),
        ("forced_bos_token_id", 1),
        ("bad_words_ids", [[3]]),
        ("num_beams", 4),
        ("sequence_bias", [[[3], -1.0]]),
        ("stop_strings", ["\n"]),
    ],
)
def test_what_changes_greedy_answers_is_a_warning(name: str, value: Any, tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, **{name: value})
    (found,) = findings_on(base, *BaseUse)
    assert (found.rule, found.severity) == ("basemodel-penalties", Severity.WARNING)
    assert found.where == f"generation_config.json: {name}"
    assert "greedily without it" in found.message


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "num_beams": 1},
        {"suppress_tokens": [], "forced_eos_token_id": None, "length_penalty": 2.0},
        {"max_length": 4096, "temperature": 0.7},
    ],
)
def test_neutral_values_have_no_finding(fields: dict[str, Any], tmp_path: Path) -> None:
    assert not findings_on(edit_json(copy_base(tmp_path / "base"), GENERATION, **fields))


def test_sampling_is_a_note(tmp_path: Path) -> None:
    fields = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    (found,) = findings_on(edit_json(copy_base(tmp_path / "base"), GENERATION, **fields))
    assert (found.rule, found.severity) == ("basemodel-sampling", Severity.INFO)
    assert "temperature 0.6, top_p 0.9" in found.message


def test_a_base_without_the_file_has_no_finding(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / GENERATION).unlink()
    assert "basemodel-penalties" not in {finding.rule for finding in findings_on(base)}
