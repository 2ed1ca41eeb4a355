"""Input that cannot be used ends the run with one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pytest_plugin.builders import run_static

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

BAD_INPUT: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "no such adapter": (lambda tmp, good: [f"--phi3-adapter={tmp / 'no'}"], "no such folder"),
    "a file": (
        lambda tmp, good: [f"--phi3-adapter={good / 'adapter_config.json'}"],
        "is not a folder",
    ),
    "no such base": (
        lambda tmp, good: [f"--phi3-adapter={good}", "--phi3-base=nothing/here"],
        "nothing/here",
    ),
    "a base that is not a Phi-3": (
        lambda tmp, good: [f"--phi3-adapter={good}", f"--phi3-base={llama(tmp)}"],
        "llama",
    ),
    "no such suite": (
        lambda tmp, good: [f"--phi3-adapter={good}", "--phi3-suite=no.jsonl"],
        "no.jsonl",
    ),
    "a suite of nobody": (
        lambda tmp, good: [f"--phi3-adapter={good}", "--phi3-suite=~nobody-here/a.jsonl"],
        "~nobody-here",
    ),
    "a suite with a name that none can have": (
        lambda tmp, good: [f"--phi3-adapter={good}", f"--phi3-suite={'a' * 5000}.jsonl"],
        "aaaa",
    ),
    "a broken suite": (
        lambda tmp, good: [f"--phi3-adapter={good}", f"--phi3-suite={broken(tmp)}"],
        "broken.jsonl:1",
    ),
    "two limits whose checks have one id": (
        lambda tmp, good: [f"--phi3-adapter={good}", f"--phi3-thresholds={alike(tmp)}"],
        "two checks have the id phi3::quality::loss[target,baseline]",
    ),
    "a report folder that is a file": (
        lambda tmp, good: [f"--phi3-adapter={good}", f"--phi3-report={broken(tmp)}"],
        "--phi3-report",
    ),
    "an unknown stage": (
        lambda tmp, good: [f"--phi3-adapter={good}", "--phi3-stage=maths"],
        "maths",
    ),
    "an unknown id": (
        lambda tmp, good: [f"--phi3-adapter={good}", "phi3::static::no"],
        "unknown check",
    ),
}


def llama(folder: Path) -> Path:
    (folder / "llama").mkdir()
    (folder / "llama" / "config.json").write_text('{"model_type": "llama"}')
    return folder / "llama"


def broken(folder: Path) -> Path:
    path = folder / "broken.jsonl"
    path.write_text("{\n")
    return path


def alike(folder: Path) -> Path:
    table = "[[limit]]\nmetric = 'loss'\nrule = 'no_worse_than'\nvalue = 0.1\n"
    path = folder / "limits.toml"
    path.write_text(
        f"{table}group = 'target'\nagainst = 'baseline'\n{table}group = 'target,baseline'\n"
    )
    return path


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_clear_line_and_status_2(
    pytester: pytest.Pytester,
    good_adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Any,
    words: str,
) -> None:
    result = pytester.runpytest_inprocess(*arguments(tmp_path, good_adapter))
    assert result.ret == 2, result.stdout.str()
    lines = [line for line in result.stderr.lines if line.startswith("Exit: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


EMPTY = {
    "an option": ("--phi3-adapter=",),
    "an option, in two words": ("--phi3-adapter", ""),
    "an option that is blank": ("--phi3-adapter= ",),
    "one of two": ("--phi3-adapter=GOOD", "--phi3-adapter="),
    "pytest's configuration": ("-o", "phi3_adapter="),
}


@pytest.mark.parametrize("given", EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_adapter_ends_with_2(
    given: tuple[str, ...], pytester: pytest.Pytester, good_adapter: Path
) -> None:
    (pytester.path / "test_own.py").write_text("def test_own(): pass\n")
    result = pytester.runpytest_subprocess(*(w.replace("GOOD", str(good_adapter)) for w in given))
    assert result.ret == 2
    assert "path is empty, so nothing would be gated" in result.stderr.str()


@pytest.mark.parametrize("value", ["", " ", ",", "GOOD,"])
def test_an_adapters_variable_that_expands_to_nothing_ends_with_2(
    value: str, pytester: pytest.Pytester, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_ADAPTER", value.replace("GOOD", str(good_adapter)))
    for args in ((), ("--phi3-only",)):
        result = pytester.runpytest_subprocess(*args)
        assert result.ret == 2
        assert "PHI3_LORA_QA_ADAPTER: the adapter's path is empty" in result.stderr.str()
    assert run_static(pytester, good_adapter).ret == 0  # an option goes before the environment


def test_only_without_anything_to_run_ends_with_2(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "test_own.py").write_text("def test_own(): pass\n")
    result = pytester.runpytest_subprocess("--phi3-only")
    assert result.ret == 2
    assert "nothing would run" in result.stderr.str()
    monkeypatch.setenv("PHI3_LORA_QA_ONLY", "1")
    assert pytester.runpytest_subprocess().ret == 2
    monkeypatch.delenv("PHI3_LORA_QA_ONLY")
    # In a file it says how to gate: whoever runs their own tests gates nothing.
    (pytester.path / "phi3-lora-qa.toml").write_text("only = true\n")
    assert pytester.runpytest_subprocess().ret == 0


@pytest.mark.parametrize(("seed", "words"), [("-1", "from 0 to"), ("x", "whole number")])
def test_a_seed_that_is_none_is_bad_input(
    seed: str, words: str, pytester: pytest.Pytester, good_adapter: Path
) -> None:
    result = run_static(pytester, good_adapter, f"--phi3-seed={seed}")
    assert result.ret == 2
    assert words in result.stderr.str()


def test_a_base_in_a_file_is_relative_to_that_file(
    pytester: pytest.Pytester, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "models").mkdir()
    base = good_adapter.parent / "base"
    (pytester.path / "models" / "b").symlink_to(base, target_is_directory=True)
    (pytester.path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\n[tool.phi3_lora_qa]\nbase = "models/b"\n'
    )
    monkeypatch.chdir(pytester.mkdir("below"))
    result = run_static(pytester, good_adapter)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()


def test_a_folder_of_adapters_ends_with_2_and_names_those_to_choose_from(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    both = pytester.path / "both"
    for name in ("first", "second"):
        shutil.copytree(good_adapter, both / name)
    result = run_static(pytester, both)
    assert result.ret == 2
    shown = result.stdout.str() + result.stderr.str()
    assert f"pass one of them: {both / 'first'}, {both / 'second'}" in shown
