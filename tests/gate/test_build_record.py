"""The record of an adapter that was not judged claims nothing that was not measured."""

from pathlib import Path

import pytest

from phi3_lora_qa.gate.build_record import record_without_verdict
from phi3_lora_qa.record import RunRecord, Verdict
from phi3_lora_qa.settings import resolve


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.chdir(tmp_path)
    options = {"adapter": [tmp_path / "a", Path("/b")], "base": "tiny", "seed": 7}
    settings = resolve(options, {}, {}, tmp_path, tmp_path)
    return record_without_verdict(
        settings,
        name="a",
        source=tmp_path / "a",
        reason="no verdict: still running",
        started="2026-11-24T07:40:12+00:00",
    )


def test_a_record_without_a_verdict_has_no_findings(record: RunRecord) -> None:
    assert (record.verdict, record.reason) == (Verdict.INCOMPLETE, "no verdict: still running")
    found = (record.checks, record.metrics, record.spectra, record.timings, record.items)
    assert not any(found)
    assert not any((record.adapter.sha256, record.adapter.config, record.base.id))
    assert (record.items_scored, record.items_skipped_early) == (0, 0)


def test_settings_are_recorded_with_their_source_and_paths_as_a_reader_types_them(
    record: RunRecord,
) -> None:
    assert record.adapter.path == "a"
    adapter = record.settings["adapter"]
    assert (list(adapter.value), adapter.source) == (["a", "/b"], "--phi3-adapter")
    assert (record.settings["seed"].value, record.settings["seed"].source) == (7, "--phi3-seed")
    assert record.settings["dtype"].source == "default"


def test_a_folder_that_was_removed_leaves_the_path_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = resolve({"adapter": [tmp_path]}, {}, {}, tmp_path, tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = record_without_verdict(settings, name="a", source=tmp_path, reason="", started="")
    assert found.adapter.path == str(tmp_path)
