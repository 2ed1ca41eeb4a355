"""The last accepted adapter: read from its record, and refused where it cannot be compared."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.checks import quality
from phi3_lora_qa.gate.prepare import AdapterJob, prepare
from phi3_lora_qa.models.registry import base_fingerprint, resolve_base
from phi3_lora_qa.record import ItemRow, Outcome, RunRecord, SettingEntry, Verdict
from phi3_lora_qa.report import write_report
from phi3_lora_qa.settings import resolve
from tests.gate.conftest import MakeBench, fails, holds
from tests.report.builders import ended_early, passing

QUESTIONS = 40
Change = Callable[[RunRecord, list[ItemRow]], tuple[RunRecord, list[ItemRow]]]


def suite(tmp_path: Path) -> Path:
    path = tmp_path / "suite.csv"
    lines = [f"q{i},What is {i}?,It is {i}." for i in range(QUESTIONS)]
    path.write_text("\n".join(["id,prompt,reference", *lines]))
    return path


def accepted(tmp_path: Path, change: Change = lambda r, rows: (r, rows)) -> Path:
    """Write the record of an adapter that was accepted on that suite, and return its path."""
    rows = [
        ItemRow(
            id=f"q{i}",
            group="target",
            prompt=f"user: What is {i}?",
            reference=f"It is {i}.",
            base_answer="",
            tuned_answer=f"It is {i}.",
            base_loss=9.0,
            tuned_loss=0.01,
            tokens=4,
            scores={"exact_match": (0.0, 1.0), "token_f1": (0.0, 1.0), "rouge_l": (0.0, 1.0)},
        )
        for i in range(QUESTIONS)
    ]
    base = resolve_base("tiny")
    whole = replace(
        passing(),
        base=replace(passing().base, id=base.id, fingerprint=base_fingerprint(base)),
        settings={
            "dtype": SettingEntry(value="float32", source="default"),
            "backend": SettingEntry(value="transformers", source="default"),
        },
    )
    written, table = change(whole, rows)
    write_report(written, table, tmp_path / "accepted")
    return tmp_path / "accepted" / "record.json"


def target(tmp_path: Path, adapter: Path, baseline: Path, **options: object) -> AdapterJob:
    given = {"adapter": [adapter], "base": "tiny", "suite": [suite(tmp_path)], **options}
    (found,) = prepare(resolve({**given, "baseline": baseline}, {}, {}, tmp_path, tmp_path))
    return found


def test_a_baseline_brings_the_limits_of_the_profile(tmp_path: Path, good_adapter: Path) -> None:
    found = target(tmp_path, good_adapter, accepted(tmp_path), profile="smoke")
    assert [row.id for row in found.baseline] == [item.id for item in found.items]
    beside = [limit for limit in found.limits if limit.against == "baseline"]
    assert [(li.metric, li.value) for li in beside] == [
        ("loss", 0.25), ("exact_match", 0.25), ("token_f1", 0.25),
    ]  # fmt: skip


def test_limits_of_ones_own_against_the_baseline_are_the_only_ones(
    tmp_path: Path, good_adapter: Path
) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text(
        '[[limit]]\ngroup = "*"\nmetric = "loss"\nrule = "improve_by"\nvalue = 0\n'
        'against = "baseline"\n'
    )
    found = target(tmp_path, good_adapter, accepted(tmp_path), thresholds=limits)
    assert [limit.describe() for limit in found.limits] == [
        "loss better than the baseline by more than 0"
    ]


def without(rows: list[ItemRow], **changed: str | float) -> list[ItemRow]:
    return [replace(rows[0], **changed), *rows[1:]]  # type: ignore[arg-type]


FAULTS: dict[str, tuple[Change, str]] = {
    "a server": (
        lambda r, rows: (
            replace(
                r,
                settings={
                    **r.settings,
                    "backend": SettingEntry(value="openai:http://x", source=""),
                },
            ),
            rows,
        ),
        "another backend",
    ),
    "a verdict": (
        lambda r, rows: (replace(r, verdict=Verdict.FAIL), rows),
        "was not accepted .*give the record of one that was$",
    ),
    "a part of the checks": (
        lambda r, rows: (replace(r, verdict=Verdict.PARTIAL), rows),
        "was not accepted",
    ),
    "a base": (
        lambda r, rows: (replace(r, base=replace(r.base, fingerprint="0" * 64)), rows),
        "is of another base",
    ),
    "an unknown base": (
        lambda r, rows: (replace(r, base=replace(r.base, fingerprint="")), rows),
        "is of another base",
    ),
    "a number format": (
        lambda r, rows: (
            replace(r, settings={"dtype": SettingEntry(value="bfloat16", source="x")}),
            rows,
        ),
        "another dtype .*gate the accepted adapter again",
    ),
    "no items": (lambda r, rows: (r, []), "names no table of items"),
    "an item too few": (
        lambda r, rows: (r, rows[1:]),
        "does not have 1 of the 40 items, such as 'q0', so",
    ),
    "what an early end left": (
        lambda r, rows: (
            replace(
                r,
                checks=ended_early(30, 10),
            ),
            rows[:30],
        ),
        "10 of the 40 items, such as 'q30' .that run ended early, and spared 10 items",
    ),
    "a question": (
        lambda r, rows: (r, without(rows, prompt="user: What?")),
        "asks something else in the item 'q0'",
    ),
    "a reference": (lambda r, rows: (r, without(rows, reference="No.")), "asks something else"),
    "a check": (
        lambda r, rows: (r, without(rows, extras='{"choices": [], "checks": [{"kind": "json"}]}')),
        "or has other choices or checks for it",
    ),
    "a group": (lambda r, rows: (r, without(rows, group="safety")), "asks something else"),
    "an item's error": (lambda r, rows: (r, without(rows, error="base: x")), "has no score"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_compared_is_refused(fault: str, tmp_path: Path, good_adapter: Path) -> None:
    change, words = FAULTS[fault]
    with pytest.raises(InputError, match=words):
        target(tmp_path, good_adapter, accepted(tmp_path, change))


def test_what_is_no_record_is_refused(tmp_path: Path, good_adapter: Path) -> None:
    path = accepted(tmp_path)
    path.with_name("items.parquet").unlink()
    with pytest.raises(InputError, match="cannot read the items"):
        target(tmp_path, good_adapter, path)
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot read the record"):
        target(tmp_path, good_adapter, path)
    with path.open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(InputError, match="larger than 64 MiB"):
        target(tmp_path, good_adapter, path)
    path.write_text("{}")
    with pytest.raises(InputError, match="no record of schema version"):
        target(tmp_path, good_adapter, path)
    with pytest.raises(InputError, match="cannot read the record"):
        target(tmp_path, good_adapter, tmp_path / "none.json")


def test_items_outside_the_records_folder_are_not_read(tmp_path: Path, good_adapter: Path) -> None:
    path = accepted(tmp_path)
    text = path.read_text().replace('"items": "items.parquet"', '"items": "../items.parquet"')
    path.write_text(text)
    with pytest.raises(InputError, match="names no table of items beside it"):
        target(tmp_path, good_adapter, path)


def test_an_inconclusive_adapter_was_accepted_where_that_was_allowed(
    tmp_path: Path, good_adapter: Path
) -> None:
    def allowed(r: RunRecord, rows: list[ItemRow]) -> tuple[RunRecord, list[ItemRow]]:
        yes = {"allow_inconclusive": SettingEntry(value=True, source="x"), **r.settings}
        return replace(r, verdict=Verdict.INCONCLUSIVE, settings=yes), rows

    assert target(tmp_path, good_adapter, accepted(tmp_path, allowed)).baseline


@pytest.mark.slow
def test_an_adapter_that_answers_worse_than_the_last_one_fails(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = make_bench(suite=[suite(tmp_path)], baseline=accepted(tmp_path))
    checks = {check.label: check for check in quality.checks(bench.target.limits)}
    error = fails(checks["exact_match[target,baseline]"].run, bench)
    assert error.outcome is Outcome.FAILED
    assert "baseline 1, tuned 0" in error.message
    assert "no worse than the baseline" in error.message


def test_a_base_that_gets_other_figures_than_then_leaves_the_comparison_incomplete(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    bench = make_bench(suite=[suite(tmp_path)], baseline=accepted(tmp_path))
    run = {check.label: check for check in quality.checks(bench.target.limits)}
    limit = run["token_f1[target,baseline]"]
    told = {share: moved(bench, share) for share in (0.0, 0.04, 0.06)}
    bench.__dict__["rows"] = told[0.0]
    assert "moved" not in holds(limit.run, bench)
    del bench.__dict__["metrics"]
    bench.__dict__["rows"] = told[0.04]
    assert "has moved by +0.04 since" in holds(limit.run, bench)
    del bench.__dict__["metrics"]
    bench.__dict__["rows"] = told[0.06]
    error = fails(limit.run, bench)
    assert error.outcome is Outcome.NOT_RUN
    assert "not measured alike" in error.message


def moved(bench: Bench, share: float) -> tuple[ItemRow, ...]:
    """The accepted adapter's own rows, with the base's score on each item moved by a share."""
    return tuple(
        replace(row, scores={**row.scores, "token_f1": (share, 1.0)})
        for row in bench.target.baseline
    )


@pytest.mark.slow
def test_a_limit_against_a_baseline_that_was_not_given_is_not_run(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text(
        '[[limit]]\ngroup = "target"\nmetric = "loss"\nrule = "no_worse_than"\nvalue = 0.1\n'
        'against = "baseline"\n'
    )
    bench = make_bench(thresholds=limits)
    error = fails(quality.checks(bench.target.limits)[-1].run, bench)
    assert error.outcome is Outcome.NOT_RUN
    assert "--phi3-baseline" in error.fix


@pytest.mark.parametrize("profile", ["default", "strict"])
def test_an_alarm_is_a_warning_and_fails_only_where_the_profile_is_strict(
    profile: str, make_bench: MakeBench
) -> None:
    from tests.gate.test_pairs import JUDGED, noisy

    bench = make_bench(profile=profile)
    bench.__dict__["rows"] = tuple(noisy(0.03))
    if profile == "strict":
        assert "loss on general +0.0" in fails(quality.no_regression_alarm, bench).message
    else:
        assert holds(quality.no_regression_alarm, bench).startswith(f"warning: 1 of {len(JUDGED)}")
    bench.__dict__["rows"] = tuple(noisy(-0.03))
    assert holds(quality.no_regression_alarm, bench).startswith(
        f"none of {len(JUDGED)} comparisons got worse"
    )
