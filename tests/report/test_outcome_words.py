"""The next step names what to do, from fields of the record that may be missing or hostile."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from phi3_lora_qa.record import CheckResult, Outcome, SettingEntry, Verdict
from phi3_lora_qa.report.outcome_words import (
    MARKS,
    OUTCOME_MARKS,
    metric_mark,
    metric_word,
    next_step,
    word_of,
)
from phi3_lora_qa.setting_specs import SourceKind
from tests.report.builders import checks, failing, incomplete, metric, passing


def undecided(name: str, measured: Mapping[str, object]) -> CheckResult:
    return CheckResult(
        id=f"phi3::quality::{name}",
        stage="quality",
        outcome=Outcome.INCONCLUSIVE,
        message="too few items to decide",
        measured=measured,
    )


def needs(group: str, have: object, need: object) -> Mapping[str, object]:
    return {"metric": {"group": group, "n": have}, "items_needed": need}


def step(*results: CheckResult) -> str:
    return next_step(passing(verdict=Verdict.INCONCLUSIVE, checks=[*checks(), *results]))


def test_an_inconclusive_run_says_how_many_items_each_group_needs() -> None:
    assert step(
        undecided("loss[general]", needs("general", 5, 10)),
        undecided("exact_match[general]", needs("general", 5, 23)),
        undecided("loss[target]", needs("target", 5, 11_600)),
    ) == (
        "Nothing failed, but more items are needed: about 23 general (have 5), "
        "11,600 target (have 5)."
    )


@pytest.mark.parametrize(
    "measured",
    [
        {},
        {"metric": "loss", "items_needed": 9},
        needs("general", 5, 0),
        needs("general", 5, None),
        needs("general", "5", 10),
        needs("general", True, 10),
        {"metric": {"group": 3, "n": 1}, "items_needed": 9},
    ],
)
def test_a_run_that_no_number_of_items_decides_asks_for_other_limits(
    measured: Mapping[str, object],
) -> None:
    assert step(undecided("loss[general]", measured)) == (
        "Nothing failed, but some results are too close to their limits. Set other limits."
    )


def test_many_groups_are_cut_and_a_long_name_stays_one_short_line() -> None:
    groups = [undecided(f"l{n}", needs(f"group {n}\n" + "w" * 99, 1, 2)) for n in range(9)]
    words = step(*groups)
    assert words.count("have 1") == 5
    assert words.endswith(", ….")
    assert "\n" not in words
    assert len(words) < 400


def test_a_pass_with_warnings_asks_to_read_them() -> None:
    warned = CheckResult(
        id="phi3::static::files",
        stage="static",
        outcome=Outcome.PASSED,
        message="",
        measured={"warnings": 2},
    )
    assert next_step(passing(checks=checks([warned]))) == (
        "All 21 checks passed, with 2 warnings. Read them before you ship."
    )


def test_the_next_step_of_each_verdict() -> None:
    assert next_step(passing()) == "All 21 checks passed. OK to ship."
    assert next_step(failing()) == "Fix these in order, then rerun the gate."
    assert next_step(incomplete()).startswith("Some checks did not run. Do not ship")
    assert next_step(incomplete(checks=())).startswith("There is no verdict. Do not ship")
    assert "before you ship" in next_step(passing(verdict=Verdict.PARTIAL))
    static = {
        "stage": SettingEntry(value=["static"], source="--phi3-stage", kind=SourceKind.OPTION)
    }
    assert "OK to ship" not in next_step(passing(settings=static))
    for verdict in Verdict:
        assert MARKS[verdict]
        assert ("OK to ship" in next_step(passing(verdict=verdict))) == (verdict is Verdict.PASS)


def test_every_outcome_has_a_word_and_a_sign_and_no_limit_is_not_one_of_them() -> None:
    words = {word_of(outcome) for outcome in Outcome}
    assert len(words) == len(OUTCOME_MARKS) == len(Outcome)
    bare = metric(limit=None)
    assert (metric_word(bare), metric_mark(bare)) == ("no limit", OUTCOME_MARKS[Outcome.NOT_RUN])
    assert metric_word(bare) not in words
    failed = replace(metric(), outcome=Outcome.FAILED)
    assert (metric_word(failed), metric_mark(failed)) == ("failed", "✕")
