"""The static stage sees the user's folder, not only the copy, and says what it did not see."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.gate.check import CheckFailedError
from phi3_lora_qa.gate.checks import static
from phi3_lora_qa.record import Outcome
from tests.gate.conftest import MakeBench

Copy = Callable[[str], Path]


def outcome(bench: object, name: str) -> Outcome:
    check = next(check for check in static.checks(Selection()) if check.name == name)
    try:
        check.run(bench)  # type: ignore[arg-type]
    except CheckFailedError as error:
        return error.outcome
    return Outcome.PASSED


def test_every_family_holds_on_the_good_adapter(make_bench: MakeBench) -> None:
    bench = make_bench()
    assert {outcome(bench, check.name) for check in static.checks(Selection())} == {Outcome.PASSED}


def test_weights_that_are_a_link_are_refused(make_bench: MakeBench, adapter_copy: Copy) -> None:
    folder = adapter_copy("linked")
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder.parent / "elsewhere")
    weights.symlink_to(folder.parent / "elsewhere")
    bench = make_bench(folder)
    assert outcome(bench, "files") is Outcome.FAILED
    assert any("link" in finding.message for finding in bench.lint.findings)


def test_a_pickle_beside_the_weights_is_reported(make_bench: MakeBench, adapter_copy: Copy) -> None:
    folder = adapter_copy("pickled")
    (folder / "optimizer.pt").write_bytes(b"never opened")
    findings = make_bench(folder).lint.findings
    assert any("optimizer.pt" in finding.where + finding.message for finding in findings)


def test_without_a_base_the_family_base_has_not_been_run(
    make_bench: MakeBench, adapter_copy: Copy
) -> None:
    folder = adapter_copy("orphan")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"someone/else"'))
    bench = make_bench(folder, base=None)
    assert outcome(bench, "base") is Outcome.NOT_RUN
    assert outcome(bench, "values") is Outcome.PASSED


@pytest.mark.parametrize(("stages", "wanted"), [(["static"], Outcome.NOT_RUN), (None, "passed")])
def test_a_base_that_is_not_here_yet_is_held_against_it_only_by_a_later_stage(
    make_bench: MakeBench, stages: list[str] | None, wanted: str
) -> None:
    from dataclasses import replace

    bench = make_bench()
    assert bench.target.base
    bench.target = replace(bench.target, base=replace(bench.target.base, folder=None))
    if stages:
        bench.run.stages = frozenset(stages)
    assert outcome(bench, "base") == wanted


def test_a_family_that_an_error_blocks_is_not_run_with_the_file_to_fix(
    make_bench: MakeBench, adapter_copy: Copy
) -> None:
    """Not even a NaN in the weights is found then, so that "passed" would be untrue."""
    folder = adapter_copy("broken")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 8', '"r": 0'))
    bench = make_bench(folder)
    checks = {check.name: check for check in static.checks(Selection())}
    with pytest.raises(CheckFailedError) as failed:
        checks["config"].run(bench)
    assert failed.value.outcome is Outcome.FAILED
    for name in ("values", "linter_completed"):
        with pytest.raises(CheckFailedError) as blocked:
            checks[name].run(bench)
        assert blocked.value.outcome is Outcome.NOT_RUN
        assert blocked.value.fix == "fix adapter_config.json first"
        assert "blocked until adapter_config.json is fixed" in blocked.value.message


def test_the_places_beyond_the_listed_ones_are_counted(
    make_bench: MakeBench, adapter_copy: Copy
) -> None:
    folder = adapter_copy("programs")
    for number in range(12):
        (folder / f"{number}.py").write_text("")
    check = next(check for check in static.checks(Selection()) if check.name == "files")
    held = check.run(make_bench(folder))
    assert "; 12 warnings or notes" in held.message
