"""What lies in an adapter's folder neither configures the gate nor runs in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RAN = "from pathlib import Path\nPath({!r}).write_text('')\n"


def gate(pytester: pytest.Pytester, *args: object) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        "--phi3-report=out", "--phi3-stage=static", *map(str, args)
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pytest.ini", "[pytest]\naddopts = --phi3-lint-ignore=values\n"),
        ("pytest.ini", "[pytest]\nphi3_lint_ignore = values\n"),
        ("pytest.toml", "[pytest]\n"),
        ("phi3-lora-qa.toml", "lint_ignore = ['values']\n"),
        ("pyproject.toml", "[tool.phi3_lora_qa]\nlint_ignore = ['values']\n"),
        ("conftest.py", ""),
    ],
)
@pytest.mark.parametrize("outside", [False, True])
def test_configuration_there_is_refused_and_its_conftest_is_not_run(
    file: str,
    text: str,
    outside: bool,
    pytester: pytest.Pytester,
    nan_adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = pytester.path / "ran"
    (nan_adapter / file).write_text(text)
    (nan_adapter / "conftest.py").write_text(RAN.format(str(ran)))
    here = pytester.path if outside else nan_adapter
    where = [f"--rootdir={nan_adapter}", nan_adapter] if outside else []
    monkeypatch.chdir(here)
    result = gate(pytester, "--phi3-adapter", nan_adapter, *where)
    assert result.ret == 2
    assert "adapter's own folder" in result.stderr.str() + result.stdout.str()
    assert not ran.exists()


def test_tests_there_are_not_collected(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    adapter = adapter_copy("good").rename(pytester.path / "a")
    ran = pytester.path / "ran"
    (adapter / "conftest.py").write_text(RAN.format(str(ran)))
    (adapter / "test_theirs.py").write_text(RAN.format(str(ran)) + "def test_theirs(): pass\n")
    (pytester.path / "test_own.py").write_text("def test_own(): pass\n")
    result = gate(pytester, "--phi3-adapter", "a", "-v")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*test_own*"])
    assert "test_theirs" not in result.stdout.str()
    assert not ran.exists()
