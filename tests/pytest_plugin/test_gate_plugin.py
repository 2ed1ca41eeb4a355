"""What a run says of its adapters: the verdict, the exit status, and what the record tells."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa.data.item_table import read_items
from phi3_lora_qa.record import RunRecord
from phi3_lora_qa.report.rerun_commands import rerun_all
from tests.pytest_plugin.builders import gate, record_of

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def test_a_good_adapter_passes_every_stage_in_an_empty_directory(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = gate(pytester, good_adapter, stages=())
    assert result.ret == 0, result.stdout.str()
    record = record_of(pytester)
    assert record.verdict == "PASS"
    assert record.environment["scored"] == "adapter attached to the base, not merged"
    assert {check.stage for check in record.checks} == {
        "static", "math", "checkpoint", "quality", "export",
    }  # fmt: skip
    assert {check.outcome for check in record.checks} == {"passed"}
    for name in ("report.html", "record.json", "summary.md", "items.parquet"):
        assert (pytester.path / "out" / name).is_file()
    result.stdout.fnmatch_lines(["*PASS adapter: all * checks passed*"])


def test_a_bad_adapter_fails_and_no_model_is_loaded(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    result = pytester.runpytest_subprocess(
        f"--phi3-adapter={nan_adapter}", "--phi3-report=out", "-p", "look"
    )
    assert result.ret == 1
    record = record_of(pytester)
    assert record.verdict == "FAIL"
    assert "NaN" in record.reason
    assert "lora_B" in record.reason
    later = [c for c in record.checks if c.stage != "static"]
    assert later
    assert {c.outcome for c in later} == {"not_run"}
    assert json.loads((pytester.path / "loaded.json").read_text()) == []


def test_several_adapters_get_a_verdict_each_and_the_run_the_worst(
    pytester: pytest.Pytester, good_adapter: Path, nan_adapter: Path
) -> None:
    result = gate(pytester, good_adapter, f"--phi3-adapter={nan_adapter}")
    assert result.ret == 1
    assert record_of(pytester, "out/adapter").verdict == "PASS"
    assert record_of(pytester, "out/nan").verdict == "FAIL"
    result.stdout.fnmatch_lines(["verdict of the run: FAIL"])
    # The checks of one adapter are counted for it alone.
    for name in ("adapter", "nan"):
        count = len(record_of(pytester, f"out/{name}").checks)
        assert f"phi3-lora-qa: adapter {name}, base tiny, 300 items, {count} checks" in (
            result.outlines
        )


def test_a_verdict_over_some_stages_says_which_it_leaves_out(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    assert gate(pytester, good_adapter).ret == 0
    record = record_of(pytester)
    assert "stages not run: checkpoint, quality, export" in record.reason
    assert "scored" not in record.environment


def test_without_a_base_the_run_is_incomplete_and_names_the_option(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    folder = adapter_copy("orphan")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"someone/else"'))
    assert gate(pytester, folder).ret == 1
    record = record_of(pytester)
    assert record.verdict == "INCOMPLETE"
    assert "--phi3-base" in record.reason


def test_rules_that_are_ignored_are_told_in_the_record(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    result = gate(
        pytester, nan_adapter, "--phi3-lint-ignore=values-nan", stages=("--phi3-stage=static",)
    )
    assert result.ret == 0
    record = record_of(pytester)
    assert record.settings["lint_ignore"].value == ["values-nan"]
    assert "settings select, ignore or re-level" in record.reason
    (ran,) = [c for c in record.checks if c.id.endswith("linter_completed")]
    assert ran.measured["ignored"] == ["values-nan"]


def test_a_family_that_is_ignored_whole_has_no_check_that_passes(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    only_static = ("--phi3-stage=static",)
    assert gate(pytester, nan_adapter, "--phi3-lint-ignore=values", stages=only_static).ret == 0
    names = {check.id.rpartition("::")[2] for check in record_of(pytester).checks}
    assert "values" not in names
    assert {"files", "linter_completed"} <= names


def test_a_check_says_how_many_of_its_rules_ran(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    assert gate(pytester, adapter_copy("bare"), stages=("--phi3-stage=static",)).ret == 0
    found = {check.id: check.message for check in record_of(pytester).checks}
    assert found["phi3::static::manifest"].startswith("1 of ")  # that there is none
    assert not found["phi3::static::files"].startswith("1 of ")


def test_a_report_that_cannot_be_written_at_the_end_fails_the_run_without_a_traceback(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    pytester.makepyfile(
        """
        import pathlib
        def test_takes_the_place_of_the_report():
            pathlib.Path("out/report.html").unlink()
            pathlib.Path("out/report.html").mkdir()
        """
    )
    result = gate(pytester, good_adapter)
    assert result.ret == 1, result.stdout.str()
    assert "no report: " in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


LIMIT = "[[limit]]\ngroup = 'target'\nmetric = 'loss'\nrule = 'improve_by'\nvalue = 1.0\n"


def test_each_run_asks_in_an_order_of_its_own_and_again_in_the_one_of_a_record(
    pytester: pytest.Pytester, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_EARLY_STOP", "on")
    (pytester.path / "limits.toml").write_text(LIMIT)
    args = ("--phi3-thresholds=limits.toml", "--phi3-only")
    stages = ("--phi3-stage=quality",)

    def told() -> tuple[RunRecord, set[str]]:
        record = record_of(pytester)
        assert record.verdict == "PASS"
        rows = read_items(pytester.path / "out" / record.items)
        return record, {row.id for row in rows if row.group == "target"}

    given = (f"--phi3-adapter={good_adapter}", "--phi3-report=out", *stages, *args, "-n2")
    assert pytester.runpytest_subprocess(*given).ret == 0
    record, asked = told()
    order = record.settings["order"]
    assert order.source == "drawn for this run"
    assert len(asked) < 150
    assert f"--phi3-order={order.value}" in rerun_all(record)
    assert (
        gate(pytester, good_adapter, f"--phi3-order={order.value}", *args, stages=stages).ret == 0
    )
    assert told()[1] == asked
    assert gate(pytester, good_adapter, *args, stages=stages).ret == 0
    assert told()[0].settings["order"].value != order.value
    assert told()[1] != asked
