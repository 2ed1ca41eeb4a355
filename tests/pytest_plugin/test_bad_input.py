"""Input that cannot be used ends the run with one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    "a base that is no Phi-3": (
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
    "an unknown id": (lambda tmp, good: [f"--phi3-adapter={good}", "phi3::static::no"], "no check"),
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
