"""The gate as a function reaches the same verdict and figures as pytest, and writes no file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.record import Outcome, RunRecord, Verdict, load_record
from phi3_lora_qa.run_gate import gate_adapter


def figures(record: RunRecord) -> object:
    """Return everything that must be equal, without times and the machine's description."""
    checks = [(c.id, c.outcome, c.message, c.fix, c.measured) for c in record.checks]
    return record.verdict, record.reason, checks, record.metrics, record.spectra, record.base


@pytest.mark.slow
def test_verdict_and_figures_are_those_of_pytest(good_adapter: Path, tmp_path: Path) -> None:
    options = ("--phi3-only", "--phi3-base=tiny", "--phi3-order=0", "--phi3-report=by-pytest")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--phi3-adapter={good_adapter}", *options],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    record = gate_adapter(good_adapter, base="tiny", order=0, report=tmp_path / "by-function",
                          cache_scores="off", early_stop="off")  # fmt: skip
    assert record.verdict is Verdict.PASS
    by_pytest = load_record(tmp_path / "by-pytest" / "record.json")
    by_function = load_record(tmp_path / "by-function" / "record.json")
    assert figures(by_function) == figures(by_pytest)
    assert figures(record) == figures(by_function)
    names = {file.name for file in (tmp_path / "by-function").iterdir()}
    assert names == {file.name for file in (tmp_path / "by-pytest").iterdir()}


def test_nothing_is_written_without_a_report(
    good_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    record = gate_adapter(good_adapter, base="tiny", stages=["static"])
    assert (record.verdict, record.items) == (Verdict.PASS, "")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_adapter_fails(adapter_copy: Callable[[str], Path]) -> None:
    folder = adapter_copy("broken")
    (folder / "adapter_model.safetensors").write_bytes(b"no header")
    record = gate_adapter(folder, base="tiny", stages=["static", "math"])
    assert record.verdict is Verdict.FAIL
    assert {c.outcome for c in record.checks if c.stage == "math"} == {Outcome.NOT_RUN}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base": "no-such-base/x"}, "no-such-base/x"),
        ({"stages": ["maths"]}, "stage"),
        ({"suite": ["no.jsonl"]}, r"no\.jsonl"),
        ({"thresholds": "no.toml"}, r"no\.toml"),
        ({"seed": -1}, "seed"),
        ({"dtype": "float8"}, "dtype"),
        ({"dytpe": "float32"}, "unknown setting: dytpe; did you mean 'dtype'?"),
        ({"only": True}, "unknown setting: only"),
    ],
)
def test_bad_input_is_refused(options: dict[str, object], words: str, good_adapter: Path) -> None:
    with pytest.raises(InputError, match=words):
        gate_adapter(good_adapter, **{"base": "tiny", **options})  # type: ignore[arg-type]


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        gate_adapter(tmp_path / "none", base="tiny")


def test_a_report_in_the_adapters_folder_is_refused(adapter_copy: Callable[[str], Path]) -> None:
    folder = adapter_copy("adapter")
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match="must not be written to the adapter's folder"):
        gate_adapter(folder, base="tiny", stages=["static"], report=folder / "report")
    assert sorted(folder.iterdir()) == before


def test_an_earlier_report_does_not_survive_a_run_that_ends_early(
    good_adapter: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    gate_adapter(good_adapter, base="tiny", stages=["static"], report=report)
    assert load_record(report / "record.json").verdict is Verdict.PASS
    with pytest.raises(InputError):
        gate_adapter(good_adapter, base="no-such-base/x", stages=["static"], report=report)
    record = load_record(report / "record.json")
    assert record.verdict is Verdict.INCOMPLETE
    assert "ended early" in record.reason
