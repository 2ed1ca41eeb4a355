"""The last accepted adapter: read from its record, and refused if it cannot be compared."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.checks import quality
from phi3_lora_qa.gate.prepare import AdapterJob, prepare
from phi3_lora_qa.models.registry import base_fingerprint, resolve_base
from phi3_lora_qa.record import ItemRow, Outcome, RunRecord, SettingEntry, Turn, Verdict
from phi3_lora_qa.report import write_report
from phi3_lora_qa.setting_specs import SourceKind
from phi3_lora_qa.settings import resolve
from tests.gate.builders import MakeSession, fails, passes, with_rows
from tests.gate.rows import JUDGED, noisy
from tests.report.builders import passing, prompt, stopped_early

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
            prompt=prompt(f"What is {i}?"),
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
            "dtype": SettingEntry(value="float32", source="default", kind=SourceKind.DEFAULT),
            "backend": SettingEntry(
                value="transformers", source="default", kind=SourceKind.DEFAULT
            ),
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
    added = [limit for limit in found.limits if limit.against == "baseline"]
    assert [(li.metric, li.value) for li in added] == [
        ("loss", 0.25), ("exact_match", 0.25), ("token_f1", 0.25),
    ]  # fmt: skip


def test_limits_of_a_file_against_the_baseline_replace_those_of_the_profile(
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


def changed(rows: list[ItemRow], **changes: object) -> list[ItemRow]:
    return [replace(rows[0], **changes), *rows[1:]]  # type: ignore[arg-type]


def with_setting(record: RunRecord, name: str, value: str) -> RunRecord:
    entry = SettingEntry(value=value, source="x", kind=SourceKind.OPTION)
    return replace(record, settings={**record.settings, name: entry})


FAULTS: dict[str, tuple[Change, str]] = {
    "a server": (
        lambda r, rows: (
            replace(
                r,
                settings={
                    **r.settings,
                    "backend": SettingEntry(
                        value="openai:http://x", source="", kind=SourceKind.OPTION
                    ),
                },
            ),
            rows,
        ),
        "a different backend: openai:http://x; gate the accepted adapter again",
    ),
    "a verdict": (
        lambda r, rows: (replace(r, verdict=Verdict.FAIL), rows),
        "was not accepted: its verdict is FAIL; pass the record of an accepted adapter$",
    ),
    "a part of the checks": (
        lambda r, rows: (replace(r, verdict=Verdict.PARTIAL), rows),
        "was not accepted",
    ),
    "a base": (
        lambda r, rows: (replace(r, base=replace(r.base, fingerprint="0" * 64)), rows),
        "has a different base",
    ),
    "an unknown base": (
        lambda r, rows: (replace(r, base=replace(r.base, fingerprint="")), rows),
        "has a different base",
    ),
    "a number format": (
        lambda r, rows: (
            replace(
                r,
                settings={
                    "dtype": SettingEntry(value="bfloat16", source="x", kind=SourceKind.OPTION)
                },
            ),
            rows,
        ),
        "a different dtype: bfloat16; gate the accepted adapter again with --phi3-dtype float32, "
        "or this one with --phi3-dtype bfloat16",
    ),
    "a device": (
        lambda r, rows: (with_setting(r, "device", "cuda:1"), rows),
        "a different device: cuda:1; gate the accepted adapter again with --phi3-device cpu, or",
    ),
    "a quantization": (
        lambda r, rows: (with_setting(r, "quantization", "nf4"), rows),
        "a different quantization: nf4; gate the accepted adapter again with --phi3-quantization",
    ),
    "no items": (lambda r, rows: (r, []), "does not name a table of items"),
    "an item too few": (
        lambda r, rows: (r, rows[1:]),
        "lacks 1 of the 40 items, such as 'q0', so",
    ),
    "what early stopping left": (
        lambda r, rows: (
            replace(
                r,
                checks=stopped_early(30, 10),
            ),
            rows[:30],
        ),
        "10 of the 40 items, such as 'q30' .early stopping skipped 10 items in that run",
    ),
    "a question": (
        lambda r, rows: (r, changed(rows, prompt=prompt("What?"))),
        "has a different prompt, .* for the item 'q0'",
    ),
    "a system turn": (
        lambda r, rows: (r, changed(rows, prompt=prompt("What is 0?", system="Be brief."))),
        "has a different prompt, .* for the item 'q0'",
    ),
    "a role": (
        lambda r, rows: (r, changed(rows, prompt=(Turn(role="system", content="What is 0?"),))),
        "has a different prompt, .* for the item 'q0'",
    ),
    "a reference": (lambda r, rows: (r, changed(rows, reference="No.")), "different .*reference"),
    "a check": (
        lambda r, rows: (r, changed(rows, extras='{"choices": [], "checks": [{"kind": "json"}]}')),
        "different .*choices or checks",
    ),
    "a group": (lambda r, rows: (r, changed(rows, group="safety")), "different .*group"),
    "an error of the base": (lambda r, rows: (r, changed(rows, base_error="x")), "has no score"),
    "an error of the adapter": (
        lambda r, rows: (r, changed(rows, tuned_error="x")),
        "has no score",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_record_that_cannot_be_compared_is_refused(
    fault: str, tmp_path: Path, good_adapter: Path
) -> None:
    change, words = FAULTS[fault]
    with pytest.raises(InputError, match=words):
        target(tmp_path, good_adapter, accepted(tmp_path, change))


def test_a_file_that_is_not_a_record_is_refused(tmp_path: Path, good_adapter: Path) -> None:
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
    with pytest.raises(InputError, match="has no schema version"):
        target(tmp_path, good_adapter, path)
    with pytest.raises(InputError, match="cannot read the record"):
        target(tmp_path, good_adapter, tmp_path / "none.json")


def test_items_outside_the_records_folder_are_not_read(tmp_path: Path, good_adapter: Path) -> None:
    path = accepted(tmp_path)
    text = path.read_text().replace('"items": "items.parquet"', '"items": "../items.parquet"')
    path.write_text(text)
    with pytest.raises(InputError, match="does not name a table of items next to it"):
        target(tmp_path, good_adapter, path)


def test_an_inconclusive_adapter_was_accepted_if_that_was_allowed(
    tmp_path: Path, good_adapter: Path
) -> None:
    def allowed(r: RunRecord, rows: list[ItemRow]) -> tuple[RunRecord, list[ItemRow]]:
        yes = {
            "allow_inconclusive": SettingEntry(value=True, source="x", kind=SourceKind.OPTION),
            **r.settings,
        }
        return replace(r, verdict=Verdict.INCONCLUSIVE, settings=yes), rows

    assert target(tmp_path, good_adapter, accepted(tmp_path, allowed)).baseline


def moved(session: AdapterSession, share: float) -> tuple[ItemRow, ...]:
    """The accepted adapter's own rows, with the base's score on each item moved by a share."""
    return tuple(
        replace(row, scores={**row.scores, "token_f1": (share, 1.0)})
        for row in session.job.baseline
    )


@pytest.mark.slow
def test_an_adapter_that_answers_worse_than_the_last_one_fails(
    make_session: MakeSession, tmp_path: Path
) -> None:
    session = make_session(suite=[suite(tmp_path)], baseline=accepted(tmp_path))
    checks = {check.label: check for check in quality.checks(session.job.limits)}
    outcome = fails(checks["exact_match[target,baseline]"].run, session)
    assert outcome.outcome is Outcome.FAILED
    assert "baseline 1, tuned 0" in outcome.message
    assert "no worse than the baseline" in outcome.message


def test_a_base_that_gets_other_figures_than_then_leaves_the_comparison_incomplete(
    make_session: MakeSession, tmp_path: Path
) -> None:
    session = make_session(suite=[suite(tmp_path)], baseline=accepted(tmp_path))
    run = {check.label: check for check in quality.checks(session.job.limits)}
    limit = run["token_f1[target,baseline]"]
    same, near, far = (with_rows(session, moved(session, share)) for share in (0.0, 0.04, 0.06))
    assert "moved" not in passes(limit.run, same)
    assert "changed by +0.04 since" in passes(limit.run, near)
    outcome = fails(limit.run, far)
    assert outcome.outcome is Outcome.NOT_RUN
    assert "the two runs did not measure under the same conditions" in outcome.message


@pytest.mark.slow
def test_a_limit_against_a_baseline_that_was_not_given_is_not_run(
    make_session: MakeSession, tmp_path: Path
) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text(
        '[[limit]]\ngroup = "target"\nmetric = "loss"\nrule = "no_worse_than"\nvalue = 0.1\n'
        'against = "baseline"\n'
    )
    session = make_session(thresholds=limits)
    outcome = fails(quality.checks(session.job.limits)[-1].run, session)
    assert outcome.outcome is Outcome.NOT_RUN
    assert "--phi3-baseline" in outcome.fix


@pytest.mark.parametrize("profile", ["default", "strict"])
def test_an_alarm_is_a_warning_and_fails_only_where_the_profile_is_strict(
    profile: str, make_session: MakeSession
) -> None:
    session = make_session(profile=profile)
    worse, better = with_rows(session, noisy(0.03)), with_rows(session, noisy(-0.03))
    if profile == "strict":
        assert "loss on general +0.0" in fails(quality.no_regression_alarm, worse).message
    else:
        assert passes(quality.no_regression_alarm, worse).startswith(f"warning: 1 of {len(JUDGED)}")
    assert passes(quality.no_regression_alarm, better).startswith(
        f"none of {len(JUDGED)} comparisons is significantly worse"
    )
