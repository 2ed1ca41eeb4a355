"""Commands lint and explain, through the console script's own application."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3_lora_qa.adapter.rule_catalogue import all_rules
from phi3_lora_qa.cli import app
from phi3_lora_qa.errors import AdapterError, BaseModelError, InputError
from tests.adapter.adapters import plain
from tests.adapter.faults import spoil
from tests.adapter.tiny_base import write_base

HOSTILE = "x\n::error::pwned\x1b[31m\u202e%,:"
COMMANDS = ("::add-mask::e", " \t::error::x", "##[stop-commands]e", "a ##vso[task.complete]e")
"""What GitHub's and Azure's runners take for commands, in a line or at its start."""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return plain().save(tmp_path / "good")


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return spoil(plain(), "nan", 0.5).save(tmp_path / "bad")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    adapter = plain()
    adapter.config[HOSTILE] = HOSTILE
    adapter.tensors[HOSTILE] = adapter.array(adapter.names("lora_B.weight")[0])
    return adapter.save(tmp_path / "hostile")


def test_a_good_adapter_is_accepted_with_status_0(good: Path, tmp_path: Path) -> None:
    result = run("lint", good)
    assert result.exit_code == 0
    assert result.stdout.startswith("accepted")
    assert "not checked" in result.stdout
    assert "base" in result.stdout
    based = run("lint", good, "--base", write_base(tmp_path / "base"))
    assert based.exit_code == 0


def test_a_bad_adapter_is_rejected_with_status_1_and_its_mend(bad: Path) -> None:
    result = run("lint", bad)
    assert result.exit_code == 1
    first = result.stdout.splitlines()[:8]
    assert first[0].startswith("rejected")
    assert any("values-nan" in line for line in first)
    assert any("fix: " in line for line in first)


def test_json_is_as_the_contract_says(bad: Path) -> None:
    result = run("lint", bad, "--format", "json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert set(content) == {"schema_version", "adapter", "verdict", "findings", "summary"}
    assert content["schema_version"] == 1
    assert content["adapter"] == str(bad)
    assert content["verdict"] == "rejected"
    (finding,) = content["findings"]
    assert set(finding) == {"rule", "severity", "where", "message", "fix"}
    assert (finding["rule"], finding["severity"]) == ("values-nan", "error")
    assert content["summary"]["errors"] == 1
    assert any("needs the base" in text for text in content["summary"]["unchecked"])


def test_github_gets_one_annotation_for_each_finding(bad: Path) -> None:
    lines = run("lint", bad, "--format", "github").stdout.splitlines()
    assert re.match(r"::error title=values-nan at [^:]+::\d+ values? .*Fix: ", lines[0])
    assert lines[-1].endswith("is rejected")


@pytest.mark.parametrize("kind", ["text", "json", "github"])
def test_a_strangers_text_stays_text(kind: str, hostile: Path) -> None:
    output = run("lint", hostile, "--format", kind).stdout
    assert "pwned" in output
    assert not any(line.startswith("::error::pwned") for line in output.splitlines())
    assert all(char.isprintable() or char == "\n" for char in output)


@pytest.mark.parametrize("kind", ["text", "json", "github", "sarif"])
@pytest.mark.parametrize("words", COMMANDS)
def test_no_text_of_an_adapter_is_a_command_to_a_runner(
    words: str, kind: str, tmp_path: Path
) -> None:
    adapter = plain()
    adapter.config |= {"base_model_name_or_path": f"/{words}", "task_type": words, words: words}
    adapter.config["rank_pattern"] = {words: 4}
    adapter.files = {f"{words}.sh": b"", f"{words}.pkl": b""}
    adapter.tensors[words] = adapter.array(adapter.names("lora_B.weight")[0])
    (folder := tmp_path / words).mkdir()
    output = run("lint", adapter.save(folder), "--format", kind).stdout
    assert "config-unknown-field" in output
    assert "##" not in output
    for line in output.splitlines():
        assert not line.lstrip().startswith("::") or re.match("::(error|warning|notice) ", line)


def test_github_escapes_what_would_end_a_property(hostile: Path) -> None:
    lines = run("lint", hostile, "--format", "github").stdout.splitlines()
    commands = [line for line in lines if line.startswith("::")]
    assert commands
    for command in commands:
        head = command[2:].split("::")[0]
        assert "," not in head
        assert "%," not in command


def test_what_cannot_be_read_is_an_error_that_ends_with_its_fix(good: Path, tmp_path: Path) -> None:
    file = good / "adapter_config.json"
    for path in (tmp_path / "missing", file):
        error = run("lint", path).exception
        assert isinstance(error, AdapterError)
        assert "give the folder" in str(error).rpartition("; ")[2]
    for base in (tmp_path / "missing", good, "no-such-base"):
        assert isinstance(run("lint", good, "--base", base).exception, BaseModelError)
    other = write_base(tmp_path / "llama", model_type="llama")
    assert isinstance(run("lint", good, "--base", other).exception, BaseModelError)
    assert isinstance(run("lint", good, "--format", "xml").exception, InputError)


def test_the_script_exits_with_2_and_one_line_when_it_could_not_run(tmp_path: Path) -> None:
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


def test_rules_are_chosen_on_the_command_line_and_in_the_projects_file(
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


def test_sarif_names_every_rule_and_places_every_finding(hostile: Path, bad: Path) -> None:
    for adapter in (hostile, bad):
        result = run("lint", adapter, "--format", "sarif")
        assert result.exit_code == 1
        log = json.loads(result.stdout)
        assert log["version"] == "2.1.0"
        (one,) = log["runs"]
        rules = one["tool"]["driver"]["rules"]
        assert [rule["id"] for rule in rules] == [rule.id for rule in all_rules()]
        assert one["results"]
        for found in one["results"]:
            assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
            assert found["level"] in ("error", "warning", "note")
            assert found["message"]["text"].isprintable()
            (place,) = found["locations"]
            uri = place["physicalLocation"]["artifactLocation"]["uri"]
            assert uri.startswith(f"file://{adapter}/")
            assert re.fullmatch(r"[A-Za-z0-9_./:%~-]+", uri)


@pytest.mark.parametrize("form", ["text", "json", "github", "sarif"])
def test_a_name_that_the_terminal_lacks_is_no_rejection(form: str, tmp_path: Path) -> None:
    folder = plain().save(tmp_path / "d\N{GREEK SMALL LETTER PI}")
    program = "from phi3_lora_qa.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program, "lint", str(folder), "--format", form],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_headers_alone_need_no_numpy(good: Path) -> None:
    program = (
        "import sys\n"
        "from phi3_lora_qa.cli.lint import LintOptions, lint_command\n"
        "from pathlib import Path\n"
        f"assert lint_command(Path({str(good)!r}), LintOptions(ignore=('values',)), 'json') == 0\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)


def test_explain_says_of_every_rule_what_why_and_how() -> None:
    for rule in all_rules():
        result = run("explain", rule.id)
        assert result.exit_code == 0
        assert all(text in result.stdout for text in (rule.title, rule.why, rule.fix))


def test_explain_lists_a_family() -> None:
    lines = run("explain", "values").stdout.splitlines()
    ids = [rule.id for rule in all_rules() if rule.family == "values"]
    assert [line.partition(" ")[0] for line in lines] == ids


def test_explain_names_similar_rules_when_there_is_none() -> None:
    error = run("explain", "values-nann").exception
    assert isinstance(error, InputError)
    assert "values-nan" in str(error)


def test_an_adapter_does_not_choose_the_rules_it_is_judged_by(
    bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad)
    assert run("lint", ".").exit_code == 1
    (bad / "phi3-lora-qa.toml").write_text('lint_ignore = ["values"]\n')
    for path in (".", bad, bad / ".." / bad.name):
        error = run("lint", path).exception
        assert isinstance(error, InputError)
        assert "adapter's own folder" in str(error)
