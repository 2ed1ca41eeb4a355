"""Tests of the commands lint and explain, apart from the formats."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phi3_lora_qa.adapter.rule_catalogue import all_rules
from phi3_lora_qa.errors import AdapterError, BaseModelError, InputError
from tests.adapter.adapters import plain
from tests.adapter.faults import spoil
from tests.adapter.tiny_base import write_base
from tests.cli.builders import hostile_adapter, lint, run


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return plain().save(tmp_path / "good")


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return spoil(plain(), "nan", 0.5).save(tmp_path / "bad")


def test_a_good_adapter_is_accepted_with_status_0(good: Path, tmp_path: Path) -> None:
    result = run("lint", good)
    assert result.exit_code == 0
    assert result.stdout.startswith("accepted")
    assert "not checked" in result.stdout
    assert "base" in result.stdout
    based = run("lint", good, "--base", write_base(tmp_path / "base"))
    assert based.exit_code == 0


def test_a_bad_adapter_is_rejected_with_status_1_and_a_fix(bad: Path) -> None:
    result = run("lint", bad)
    assert result.exit_code == 1
    first = result.stdout.splitlines()[:8]
    assert first[0].startswith("rejected")
    assert any("values-nan" in line for line in first)
    assert any("fix: " in line for line in first)


COMMANDS = ("::add-mask::e", " \t::error::x", "##[stop-commands]e", "a ##vso[task.complete]e")
"""Texts that the runners of GitHub and Azure take for commands, in a line or at its start."""


@pytest.mark.parametrize("kind", ["text", "json", "github"])
def test_untrusted_text_stays_text(kind: str, tmp_path: Path) -> None:
    output = lint(hostile_adapter(), tmp_path, "--format", kind)
    assert "pwned" in output
    assert not any(line.startswith("::error::pwned") for line in output.splitlines())
    assert all(char.isprintable() or char == "\n" for char in output)


@pytest.mark.parametrize("kind", ["text", "json", "github", "sarif"])
@pytest.mark.parametrize("words", COMMANDS)
def test_no_text_of_an_adapter_is_a_command_for_a_runner(
    words: str, kind: str, tmp_path: Path
) -> None:
    adapter = plain()
    adapter.config |= {"base_model_name_or_path": f"/{words}", "task_type": words, words: words}
    adapter.config["rank_pattern"] = {words: 4}
    adapter.files = {f"{words}.sh": b"", f"{words}.pkl": b""}
    adapter.tensors[words] = adapter.array(adapter.names("lora_B.weight")[0])
    (folder := tmp_path / words).mkdir()
    output = run("lint", adapter.save(folder), "--format", kind).stdout
    assert "config-field-ignored" in output
    assert "##" not in output
    for line in output.splitlines():
        assert not line.lstrip().startswith("::") or re.match("::(error|warning|notice) ", line)


def test_an_unreadable_input_is_an_error_that_ends_with_its_fix(good: Path, tmp_path: Path) -> None:
    file = good / "adapter_config.json"
    for path in (tmp_path / "missing", file):
        error = run("lint", path).exception
        assert isinstance(error, AdapterError)
        assert "folder" in error.fix
        assert str(error).endswith(f"; {error.fix}")
    for base in (tmp_path / "missing", good, "no-such-base"):
        assert isinstance(run("lint", good, "--base", base).exception, BaseModelError)
    other = write_base(tmp_path / "llama", model_type="llama")
    assert isinstance(run("lint", good, "--base", other).exception, BaseModelError)
    assert isinstance(run("lint", good, "--format", "xml").exception, InputError)


def test_a_parent_comes_from_the_option_or_the_environment(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(good, parent)
    assert run("lint", good).exit_code == 0
    found = run("lint", good, "--parent", parent)
    assert found.exit_code == 1
    assert "values-parent-equal" in found.stdout
    monkeypatch.setenv("PHI3_LORA_QA_PARENT", str(parent))
    assert run("lint", good).exit_code == 1
    assert isinstance(run("lint", good, "--parent", good).exception, InputError)


def test_the_script_exits_with_2_and_one_line_if_it_cannot_run(tmp_path: Path) -> None:
    program = "from phi3_lora_qa.cli import main; main()"
    command = [sys.executable, "-c", program, "lint", str(tmp_path / "missing")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_lint_loads_nothing_heavy(good: Path) -> None:
    program = (
        "import sys\n"
        "from phi3_lora_qa.cli.lint import LintOptions, lint_command\n"
        "from pathlib import Path\n"
        f"assert lint_command(Path({str(good)!r}), LintOptions(), 'json') == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'pandas', 'scipy', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_rules_are_selected_on_the_command_line_and_in_the_projects_file(
    bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("lint", bad).exit_code == 1
    ignored = run("lint", bad, "--ignore", "values-nan")
    assert ignored.exit_code == 0
    assert "ignored: values-nan\n" in ignored.stdout
    assert run("lint", bad, "--level", "values=info").exit_code == 0
    assert run("lint", bad, "--select", "files,config").exit_code == 0
    assert run("lint", bad, "--select", "files", "--select", "config").exit_code == 0
    (tmp_path / "phi3-lora-qa.toml").write_text('lint_ignore = ["values"]\n')
    assert run("lint", bad).exit_code == 0
    assert run("lint", bad, "--ignore", "files-code").exit_code == 1
    assert isinstance(run("lint", bad, "--ignore", "valuess").exception, InputError)


@pytest.mark.parametrize("form", ["text", "json", "github", "sarif"])
def test_a_name_that_the_terminal_cannot_encode_is_escaped(form: str, tmp_path: Path) -> None:
    folder = plain().save(tmp_path / "d\N{GREEK SMALL LETTER PI}")
    program = "from phi3_lora_qa.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program, "lint", str(folder), "--format", form],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_reading_headers_needs_no_numpy(good: Path) -> None:
    program = (
        "import sys\n"
        "from phi3_lora_qa.cli.lint import LintOptions, lint_command\n"
        "from pathlib import Path\n"
        f"assert lint_command(Path({str(good)!r}), LintOptions(ignore=('values',)), 'json') == 0\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)


def test_explain_prints_title_reason_and_fix_of_every_rule() -> None:
    for rule in all_rules():
        result = run("explain", rule.id)
        assert result.exit_code == 0
        assert all(text in result.stdout for text in (rule.title, rule.why, rule.fix))


def test_explain_lists_a_family() -> None:
    lines = run("explain", "values").stdout.splitlines()
    ids = [rule.id for rule in all_rules() if rule.family == "values"]
    assert [line.partition(" ")[0] for line in lines] == ids


def test_explain_suggests_similar_rules() -> None:
    error = run("explain", "values-nann").exception
    assert isinstance(error, InputError)
    assert "values-nan" in str(error)


def test_an_adapter_cannot_choose_the_rules_that_judge_it(
    bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad)
    assert run("lint", ".").exit_code == 1
    (bad / "phi3-lora-qa.toml").write_text('lint_ignore = ["values"]\n')
    for path in (".", bad, bad / ".." / bad.name):
        error = run("lint", path).exception
        assert isinstance(error, InputError)
        assert "adapter's own folder" in str(error)
