"""Tests of the rule on rotary embeddings; it says what transformers says."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, Phi3Config

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.finding import Finding, Severity
from tests.adapter.base_variants import CONFIG, TINY, copy_base, edit_json, findings_on

HALF = 12  # of the 24 elements of a head
SHORT, LONG = [1.0] * HALF, [2.0] * HALF
FACTORS = {"short_factor": SHORT, "long_factor": LONG}


def rope_findings(folder: Path, **fields: Any) -> list[Finding]:
    base = edit_json(copy_base(folder), CONFIG, **fields)
    found = findings_on(base, BaseUse.LOADING)
    assert all(f.severity is Severity.ERROR for f in found if f.rule == "basemodel-rope")
    return [finding for finding in found if finding.rule == "basemodel-rope"]


def is_refused(base: Path) -> bool:
    """Whether transformers refuses the base's config."""
    try:
        Phi3Config.from_pretrained(base)
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "su", **FACTORS},
        {"rope_type": "su", **FACTORS},
        {"type": "yarn", "factor": 4.0},
        {"type": "linear", "factor": 2.0},
        {"type": "mrope", "mrope_section": [1]},
        {"type": "longrope", "short_factor": SHORT},
        {"type": "longrope", "short_factor": SHORT, "long_factor": [2.0] * (HALF - 1)},
        {"type": "longrope", "short_factor": SHORT, "long_factor": ["2"] * HALF},
        {"type": "longrope", "short_factor": SHORT, "long_factor": 2.0},
        {"type": 3},
    ],
)
def test_what_transformers_refuses_is_named(scaling: dict[str, Any], tmp_path: Path) -> None:
    assert rope_findings(tmp_path / "base", rope_scaling=scaling)
    assert is_refused(tmp_path / "base")


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {},
        {"type": "longrope", **FACTORS},
        {"rope_type": "longrope", **FACTORS},
        {"type": "su", **FACTORS, "original_max_position_embeddings": 4096},
        {"type": "yarn", **FACTORS},
        {"type": "default"},
    ],
)
def test_what_transformers_accepts_is_not(scaling: dict[str, Any] | None, tmp_path: Path) -> None:
    assert not rope_findings(tmp_path / "base", rope_scaling=scaling)
    assert not is_refused(tmp_path / "base")


def test_the_fix_for_the_former_name_works_when_it_is_followed(tmp_path: Path) -> None:
    scaling = {"type": "su", **FACTORS}
    (found,) = rope_findings(tmp_path / "before", rope_scaling=scaling)
    assert '"su"' in found.message
    assert found.fix == 'set type in rope_scaling to "longrope" in the base\'s config.json'
    assert not rope_findings(tmp_path / "after", rope_scaling={**scaling, "type": "longrope"})
    assert not is_refused(tmp_path / "after")


def test_partial_rotary_embeddings_need_fewer_factors(tmp_path: Path) -> None:
    """As Phi-4-mini, of which three quarters of a head are rotated."""
    nine = {"short_factor": [1.0] * 9, "long_factor": [2.0] * 9}
    scaling = {"type": "longrope", **nine}
    rope = {"rope_parameters": None, "partial_rotary_factor": 0.75}
    assert not rope_findings(tmp_path / "a", rope_scaling=scaling, **rope)
    assert not is_refused(tmp_path / "a")
    found = rope_findings(tmp_path / "b", rope_scaling={"type": "longrope", **FACTORS}, **rope)
    assert "has 12 numbers, and the model needs 9" in found[0].message


def test_a_value_that_is_no_object_is_named(tmp_path: Path) -> None:
    (found,) = rope_findings(tmp_path / "base", rope_scaling="longrope")
    assert "must be an object or null: got str" in found.message


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}  # fmt: skip


@pytest.mark.parametrize(
    ("scaling", "is_named"),
    [
        (LLAMA3, False),
        ({"type": "linear", "factor": 2.0}, False),
        ({"type": "yarn", "factor": 2.0}, False),
        ({"type": "linear"}, True),
        ({"type": "nothing"}, True),
        ({"type": "su", **FACTORS}, True),
    ],
)
def test_a_split_base_may_have_the_other_types(
    scaling: dict[str, Any], is_named: bool, tmp_path: Path
) -> None:
    config = json.loads((TINY / CONFIG).read_text()) | {"rope_parameters": None}
    split = {**config, "model_type": "llama", "rope_scaling": scaling}
    (tmp_path / CONFIG).write_text(json.dumps(split))
    found = [f for f in findings_on(tmp_path) if f.rule == "basemodel-rope"]
    assert bool(found) is is_named
    if not is_named:
        LlamaConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("hidden", "heads", "fields"),
    [
        (3072, 32, {}),  # Phi-3-mini and 3.5-mini: heads of 96
        (5120, 40, {"factors": 64}),  # Phi-3-medium: heads of 128
        (3072, 24, {"partial_rotary_factor": 0.75}),  # Phi-4-mini: 96 of 128
    ],
)
def test_microsofts_own_bases_have_no_finding(
    hidden: int, heads: int, fields: dict[str, Any], tmp_path: Path
) -> None:
    count = fields.pop("factors", 48)
    scaling = {"type": "longrope", "short_factor": [1.0] * count, "long_factor": [2.5] * count}
    config = {
        "model_type": "phi3", "hidden_size": hidden, "num_attention_heads": heads,
        "intermediate_size": 8192, "num_hidden_layers": 2, "vocab_size": 32064,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
        "rope_scaling": scaling, **fields,
    }  # fmt: skip
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert "basemodel-rope" not in {found.rule for found in findings_on(tmp_path)}
    assert not is_refused(tmp_path)
