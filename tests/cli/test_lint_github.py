"""Tests of the report as GitHub workflow commands."""

import re
from pathlib import Path

import pytest

from tests.adapter.adapters import plain
from tests.adapter.faults import spoil
from tests.cli.builders import hostile_adapter, lint, run, with_programs


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return spoil(plain(), "nan", 0.5).save(tmp_path / "bad")


def test_each_finding_is_one_annotation(bad: Path) -> None:
    lines = run("lint", bad, "--format", "github").stdout.splitlines()
    assert re.match(r"::error title=values-nan at [^:]+::\d+ of \d+ values .*Fix: ", lines[0])
    assert " is rejected: 1 error; " in lines[-1]


def test_texts_that_would_end_a_property_are_escaped(tmp_path: Path) -> None:
    lines = lint(hostile_adapter(), tmp_path, "--format", "github").splitlines()
    commands = [line for line in lines if line.startswith("::")]
    assert commands
    for command in commands:
        head = command[2:].split("::")[0]
        assert "," not in head
        assert "%," not in command


def test_ignored_and_unchecked_rules_are_notices(tmp_path: Path) -> None:
    lines = lint(plain(), tmp_path, "--format", "github", "--ignore", "values-nan").splitlines()
    assert "::notice title=rules ignored::values-nan" in lines
    assert any(
        line.startswith("::notice title=rules not checked::") and "--base" in line for line in lines
    )


def test_places_that_are_not_listed_are_counted_in_a_notice(tmp_path: Path) -> None:
    lines = lint(with_programs(40), tmp_path, "--format", "github").splitlines()
    assert sum(line.startswith("::warning title=files-code at ") for line in lines) == 10
    assert "::notice title=files-code in other places::30 more places are not listed" in lines
    assert ": 40 warnings; " in lines[-1]
