"""Generated pages are current, links work, and the documented CI job publishes no old report."""

import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_rule_pages_are_current() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "make_rules.py"))
    pages: Callable[[], dict[str, str]] = script["pages"]
    committed = {path.name: path.read_text() for path in (ROOT / "docs" / "rules").glob("*.md")}
    assert committed == pages(), "run `make docs`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_page_states_the_decision_and_then_the_reason(path: Path) -> None:
    title, blank, opening = path.read_text().split("\n")[:3]
    assert title.startswith(f"# {path.name[:4]}: "), title
    assert not blank
    assert opening.startswith("**Decision.**"), opening
    assert "\n**Why.** " in path.read_text()


@pytest.mark.parametrize("ending", ["exit 4", "mkdir gate; echo new > gate/summary.md; exit 1"])
def test_the_documented_job_never_publishes_an_older_summary(ending: str, tmp_path: Path) -> None:
    """Run the job's own lines with a pytest that exits early or writes a report."""
    text = (ROOT / "docs" / "how-to-ci.md").read_text()
    job = text.partition("```yaml")[2].partition("```")[0]
    steps = [step.strip() for step in re.split(r"(?m)^    - ", job) if "run:" in step]
    lines = [step.partition("run:")[2].removeprefix(" >").partition(" #")[0] for step in steps]
    (gate,) = [line for line in lines if "pytest" in line]
    before, after = lines[: lines.index(gate)], lines[lines.index(gate) + 1 :]
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "summary.md").write_text("an older PASS\n")
    script = [
        "pip() { :; }", f"pytest() ( {ending} )",
        *(line for line in before if "pip" not in line), " ".join(gate.split()), *after,
    ]  # fmt: skip
    summary = tmp_path / "published"
    environment = {"PATH": "/usr/bin:/bin", "GITHUB_STEP_SUMMARY": str(summary)}
    subprocess.run(["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environment, check=True)
    assert summary.read_text() == ("no verdict\n" if ending == "exit 4" else "new\n")
