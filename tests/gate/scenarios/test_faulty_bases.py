"""A whole gate with a base that has a fault: the verdict and the record charge it to the base."""

from pathlib import Path

import pytest

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.models.paths import bundled
from phi3_lora_qa.record import Outcome, RunRecord, Verdict, load_record
from phi3_lora_qa.run_gate import gate_adapter
from tests.adapter.base_variants import (
    CONFIG,
    GENERATION,
    POINTER,
    WITHOUT_SYSTEM,
    copy_base,
    edit_json,
    write_template,
)

ADAPTER = bundled("tiny") / "adapter"
SU = {"type": "su", "short_factor": [1.0] * 12, "long_factor": [2.0] * 12}


def gate(base: Path, **settings: object) -> RunRecord:
    files = {"suite": [bundled("tiny/suite.jsonl")], "thresholds": bundled("tiny/thresholds.toml")}
    return gate_adapter(ADAPTER, base=base, order=0, cache_scores="off", **files, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "fields", "rule"),
    [
        (GENERATION, {"eos_token_id": 741}, "basemodel-stop-tokens"),
        (CONFIG, {"rope_scaling": SU}, "basemodel-rope"),
        (CONFIG, {"quantization_config": {"quant_method": "gptq"}}, "basemodel-quantised"),
        (CONFIG, {"hidden_size": 128}, "basemodel-shapes"),
        (CONFIG, {"num_hidden_layers": 3}, "basemodel-shapes"),
    ],
)
def test_a_base_that_cannot_be_used_is_the_reason_and_nothing_fails(
    name: str, fields: dict[str, object], rule: str, tmp_path: Path
) -> None:
    record = gate(edit_json(copy_base(tmp_path / "base"), name, **fields), report=tmp_path / "out")
    assert record.verdict is Verdict.INCOMPLETE
    assert f"first: phi3::static::basemodel: the base cannot be used ({rule})" in record.reason
    assert {check.outcome for check in record.checks} == {
        Outcome.PASSED,
        Outcome.ERROR,
        Outcome.NOT_RUN,
    }
    assert [(f.rule, f.severity) for f in record.base.findings] == [(rule, "error")]
    assert load_record(tmp_path / "out" / "record.json").base == record.base
    assert "About the base, not the adapter" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", [GENERATION, "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_ends_too_early_is_one_error(name: str, tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / name).write_bytes((base / name).read_bytes()[:60])
    record = gate(base)
    assert record.verdict is Verdict.INCOMPLETE
    assert [c.id for c in record.checks if c.outcome is Outcome.ERROR] == [
        "phi3::static::basemodel"
    ]
    assert f"{name} is not valid JSON" in record.reason


@pytest.mark.parametrize("text", ["{% for", "", "{{ raise_exception('no') }}"])
def test_a_template_that_shows_no_question_is_not_charged_to_the_adapter(
    text: str, tmp_path: Path
) -> None:
    record = gate(write_template(copy_base(tmp_path / "base"), text))
    assert record.verdict is Verdict.INCOMPLETE
    assert [f.rule for f in record.base.findings] == ["basemodel-template"]
    assert not any(check.outcome is Outcome.FAILED for check in record.checks)


def test_a_base_with_a_pointer_ends_the_run_with_the_command_that_helps(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    for name in ("model.safetensors", "config.json"):
        (base / name).write_bytes(POINTER)
        with pytest.raises(BaseModelError, match=rf"{name} is a git-lfs pointer.*git lfs pull"):
            gate(base)


@pytest.mark.slow
def test_a_verdict_on_items_that_no_model_saw_says_so(tmp_path: Path) -> None:
    base = write_template(copy_base(tmp_path / "base"), WITHOUT_SYSTEM)
    record = gate(base, report=tmp_path / "out", lint_levels=["tokenizer-template=warning"])
    assert record.verdict is Verdict.FAIL
    assert "the base's chat template leaves out a turn of 205 of 300 items" in record.reason
    failed = next(check for check in record.checks if check.outcome is Outcome.FAILED)
    assert failed.stage == "quality"
    assert failed.fix.startswith("the base's chat template leaves out a turn of 205 of 300 items")
    assert [f.rule for f in record.base.findings] == ["basemodel-template-drops-turns"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no model saw this turn: the base&#39;s chat template leaves it out" in page or (
        "no model saw this turn: the base's chat template leaves it out" in page
    )
