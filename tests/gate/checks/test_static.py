"""The static stage lints the user's folder, not only the copy, and says what it did not check."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.adapter_under_test import AdapterUnderTest
from phi3_lora_qa.gate.checks import static
from phi3_lora_qa.models.paths import bundled
from phi3_lora_qa.models.registry import BaseRef
from phi3_lora_qa.record import Outcome
from phi3_lora_qa.setting_specs import STAGES
from tests.adapter.base_variants import (
    CONFIG,
    GENERATION,
    WITHOUT_SYSTEM,
    copy_base,
    edit_json,
    write_template,
)
from tests.gate.builders import MakeSession

Copy = Callable[[str], Path]


def outcome_of(session: AdapterSession, name: str) -> Outcome:
    check = next(check for check in static.checks(Selection()) if check.name == name)
    return check.run(session).outcome


def test_every_family_passes_on_the_good_adapter(make_session: MakeSession) -> None:
    session = make_session()
    assert {outcome_of(session, check.name) for check in static.checks(Selection())} == {
        Outcome.PASSED
    }


def test_weights_that_are_a_link_are_refused(make_session: MakeSession, adapter_copy: Copy) -> None:
    folder = adapter_copy("linked")
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder.parent / "elsewhere")
    weights.symlink_to(folder.parent / "elsewhere")
    session = make_session(folder)
    assert outcome_of(session, "files") is Outcome.FAILED
    assert any("link" in finding.message for finding in session.adapter.lint_report.findings)


def test_a_pickle_beside_the_weights_is_reported(
    make_session: MakeSession, adapter_copy: Copy
) -> None:
    folder = adapter_copy("pickled")
    (folder / "optimizer.pt").write_bytes(b"never opened")
    findings = make_session(folder).adapter.lint_report.findings
    assert any("optimizer.pt" in finding.where + finding.message for finding in findings)


def test_an_adapter_that_equals_its_parent_fails(
    make_session: MakeSession, adapter_copy: Copy
) -> None:
    session = make_session(adapter_copy("new"), parent=str(adapter_copy("old")))
    check = next(c for c in static.checks(Selection()) if c.name == "values")
    found = check.run(session)
    assert found.outcome is Outcome.FAILED
    assert found.message.startswith("values-parent-equal: adapter_model.safetensors: nothing was")
    assert outcome_of(make_session(adapter_copy("alone")), "values") is Outcome.PASSED


def test_warnings_are_counted_in_what_a_check_measured(
    make_session: MakeSession, adapter_copy: Copy
) -> None:
    folder = adapter_copy("with settings")
    (folder / "pytest.ini").write_text("[pytest]\n")
    session = make_session(folder)
    found = {c.name: c.run(session) for c in static.checks(Selection())}
    assert found["files"].outcome is Outcome.PASSED
    assert found["files"].measured["warnings"] == 1
    assert "warnings" not in found["config"].measured


def test_without_a_base_the_family_base_is_not_run(
    make_session: MakeSession, adapter_copy: Copy
) -> None:
    folder = adapter_copy("orphan")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"someone/else"'))
    session = make_session(folder, base=None)
    assert outcome_of(session, "base") is Outcome.NOT_RUN
    assert outcome_of(session, "values") is Outcome.PASSED


@pytest.mark.parametrize(
    ("stages", "expected"), [(("static",), Outcome.NOT_RUN), (STAGES, Outcome.PASSED)]
)
def test_a_base_that_no_stage_loads_is_not_downloaded(
    make_session: MakeSession, stages: tuple[str, ...], expected: Outcome
) -> None:
    session = make_session(stages=stages)
    adapter = adapter_of_a_hub_base(session)
    assert outcome_of(replace(session, adapter=adapter), "base") == expected
    assert adapter.base_report is None


def adapter_of_a_hub_base(session: AdapterSession, *uses: BaseUse) -> AdapterUnderTest:
    """The adapter under test, with a base that is not on this machine."""
    ref = BaseRef(id="microsoft/Phi-4-mini-instruct", folder=None, name="phi4-mini")
    job = replace(session.job, base=ref)
    return AdapterUnderTest(job, session.adapter.copy, Selection(), frozenset(uses))


def test_a_base_that_a_stage_loads_is_downloaded_and_checked_first(
    make_session: MakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--microsoft--Phi-4-mini-instruct"
    session = make_session()
    lost = adapter_of_a_hub_base(session, BaseUse.LOADING)
    checks = {check.name: check for check in static.checks(Selection())}
    failed = checks["basemodel"].run(replace(session, adapter=lost))
    assert failed.outcome is Outcome.ERROR
    assert "cannot download microsoft/Phi-4-mini-instruct" in failed.message
    assert lost.refusal.startswith("the base cannot be used")
    assert outcome_of(replace(session, adapter=lost), "base") is Outcome.NOT_RUN

    shutil.copytree(bundled("tiny/base"), repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    found = adapter_of_a_hub_base(session, BaseUse.LOADING)
    assert found.base_report is not None
    assert found.refusal == ""
    assert "base-weights" not in str(found.lint_report.unchecked)
    assert outcome_of(replace(session, adapter=found), "base") is Outcome.PASSED


def test_a_family_blocked_by_an_error_is_not_run_and_names_the_file_to_fix(
    make_session: MakeSession, adapter_copy: Copy
) -> None:
    """Not even a NaN in the weights would be found, so "passed" would be untrue."""
    folder = adapter_copy("broken")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 0'))
    session = make_session(folder)
    checks = {check.name: check for check in static.checks(Selection())}
    assert checks["config"].run(session).outcome is Outcome.FAILED
    for name in ("values", "linter_completed"):
        blocked = checks[name].run(session)
        assert blocked.outcome is Outcome.NOT_RUN
        assert blocked.fix == "fix adapter_config.json first"
        assert "blocked until adapter_config.json is fixed" in blocked.message


def test_places_beyond_the_listed_ones_are_counted(
    make_session: MakeSession, adapter_copy: Copy
) -> None:
    folder = adapter_copy("programs")
    for number in range(12):
        (folder / f"{number}.py").write_text("")
    check = next(check for check in static.checks(Selection()) if check.name == "files")
    outcome = check.run(make_session(folder))
    assert outcome.outcome is Outcome.PASSED
    assert "; 12 warnings or notes" in outcome.message


def test_a_base_that_cannot_be_used_is_an_error_and_no_failure(
    make_session: MakeSession, tmp_path: Path
) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=741)
    session = make_session(base=str(base))
    found = static.basemodel(session)
    assert found.outcome is Outcome.ERROR
    assert found.message.startswith("the base cannot be used (basemodel-stop-tokens): ")
    assert found.fix.startswith('write "eos_token_id": [741, 748]')
    assert outcome_of(session, "base") is Outcome.PASSED
    assert session.adapter.refusal == "the base cannot be used (basemodel-stop-tokens)"
    assert session.adapter.refusal_fix == "fix the base first"


@pytest.mark.parametrize(
    ("stages", "backend", "expected"),
    [
        (("static", "quality"), None, Outcome.ERROR),
        (("static", "math"), None, Outcome.PASSED),
        (("static",), None, Outcome.PASSED),
    ],
)
def test_only_what_a_stage_needs_is_an_error(
    stages: tuple[str, ...], backend: None, expected: Outcome, make_session: MakeSession,
    tmp_path: Path,
) -> None:  # fmt: skip
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=741)
    session = make_session(stages=stages, base=str(base))
    assert static.basemodel(session).outcome is expected
    assert bool(session.adapter.refusal) is (expected is Outcome.ERROR)


def test_an_adapter_is_not_compared_with_a_base_that_is_not_what_it_says(
    make_session: MakeSession, tmp_path: Path
) -> None:
    base = edit_json(copy_base(tmp_path / "base"), CONFIG, hidden_size=128)
    session = make_session(base=str(base))
    assert static.basemodel(session).outcome is Outcome.ERROR
    assert outcome_of(session, "base") is Outcome.NOT_RUN
    assert outcome_of(session, "tensors") is Outcome.PASSED
    assert session.adapter.lint_report.accepted


def test_a_warning_about_the_base_passes_and_is_said(
    make_session: MakeSession, tmp_path: Path
) -> None:
    base = write_template(copy_base(tmp_path / "base"), WITHOUT_SYSTEM)
    suite = [str(bundled("tiny/suite.jsonl"))]
    session = make_session(base=str(base), suite=suite)
    found = static.basemodel(session)
    assert found.outcome is Outcome.PASSED
    assert "warning about the base: basemodel-template-drops-turns" in found.message
    assert "205 of 300 items" in found.message
    assert found.measured["unseen"][0] == {"roles": ["system", "user"], "turns": [0]}
    assert session.adapter.unseen_items.startswith("the base's chat template leaves out a turn of")
    other = make_session(base=str(base))
    assert static.basemodel(other).message.endswith("; no item of the suite is affected")
    assert not other.adapter.unseen_items


def test_ignored_rules_on_the_base_are_said(make_session: MakeSession) -> None:
    ignored = make_session(lint_ignore=["basemodel-penalties"])
    assert static.basemodel(ignored).message == (
        "no findings about the base; ignored by your settings: basemodel-penalties"
    )
    assert static.basemodel(make_session()).message == "no findings about the base"
