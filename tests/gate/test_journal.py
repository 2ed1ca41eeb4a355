"""The journal returns what was written, and has complete files only."""

from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.gate.journal import Evidence, Journal
from phi3_lora_qa.record import (
    CheckResult,
    ItemRow,
    LimitEntry,
    Metric,
    Outcome,
    Spectrum,
    Timing,
    Turn,
)

RESULT = CheckResult(id="phi3::math::x", stage="math", outcome=Outcome.FAILED, message="m", fix="f")
EVIDENCE = Evidence(
    adapter=1,
    metrics=(
        Metric(
            group="target", metric="loss", base=1.0, tuned=0.5, difference=-0.5, low=-1.0,
            high=float("inf"), method="m", n=3, outcome=Outcome.PASSED,
            limit=LimitEntry(
                rule="at_most", value=1.0, against="base", group="target", metric="loss"
            ),
        ),
    ),
    items=(
        ItemRow(
            id="a", group="target", prompt=(Turn(role="user", content="?"),), reference="!",
            base_answer="", tuned_answer="",
            base_loss=1.0, tuned_loss=2.0, tokens=3, tuned_error="no loss",
        ),
    ),
    spectra=(
        Spectrum(
            module="m", rank=1, scaling=2.0, frobenius=1.0, stable_rank=1.0, singular_values=(1.0,)
        ),
    ),
    timings=(Timing(phase="load base", seconds=1.5),),
    environment={"threads": 2},
)  # fmt: skip


def test_results_and_evidence_are_returned_in_order(tmp_path: Path) -> None:
    journal = Journal(folder=tmp_path)
    journal.add_result(0, RESULT)
    journal.add_result(1, RESULT)
    journal.add_evidence(EVIDENCE)
    assert journal.results() == [(0, RESULT), (1, RESULT)]
    assert journal.evidence() == [EVIDENCE]


def test_an_incomplete_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "check-0.part").write_text('{"adapter": 0')
    assert Journal(folder=tmp_path).results() == []


def test_a_folder_that_is_gone_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write results to .*; free some space"):
        Journal(folder=tmp_path / "gone").add_result(0, RESULT)
