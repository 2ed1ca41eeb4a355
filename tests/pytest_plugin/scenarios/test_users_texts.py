"""Texts of the user's own files reach the terminal and the pages as text, never as a command."""

import json
import re
import shutil
from pathlib import Path

import pytest

from phi3_lora_qa.settings import SETTINGS_FILE
from tests.pytest_plugin.builders import gate

EVIL = "x\n::error::y\r::warning::z\x1b[31m\u2028##vso[task.complete]\u202e"
TEXT = json.dumps(EVIL)  # as JSON and TOML write it, both alike
ITEM = {
    "id": "q", "group": "target",
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
}  # fmt: skip
LIMIT = {"group": "target", "metric": "loss", "rule": "improve_by", "value": 0.1}


def assert_tame(text: str) -> None:
    for line in re.split(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", text):
        assert not re.match(r"\s*::(error|warning)", line), line
        assert "##vso[" not in line, line
    assert "\x1b[31m\u2028" not in text
    assert "\u202e" not in text


def limits(**changed: object) -> str:
    fields = {**LIMIT, **changed}
    return "[[limit]]\n" + "\n".join(f"{n} = {json.dumps(v)}" for n, v in fields.items())


FILES: dict[str, tuple[str, str, list[str]]] = {
    **{
        f"limit's {name}": ("t.toml", limits(**{name: EVIL}), ["--phi3-thresholds=t.toml"])
        for name in ("group", "metric", "rule", "value", "against")
    },
    "limit's field": (
        "t.toml", f"{limits()}\n{TEXT} = 1", ["--phi3-thresholds=t.toml"]
    ),
    "thresholds' table": ("t.toml", f"[{TEXT}]\na = 1", ["--phi3-thresholds=t.toml"]),
    **{
        f"item's {name}": ("s.jsonl", json.dumps({**ITEM, name: EVIL}), ["--phi3-suite=s.jsonl"])
        for name in ("id", "group", "messages", "choices", "checks", "cluster", "reference")
    },
    "item's field": ("s.jsonl", json.dumps({**ITEM, f"i{EVIL}": 1}), ["--phi3-suite=s.jsonl"]),
    "id that is there twice": (
        "s.jsonl", "\n".join([json.dumps({**ITEM, "id": EVIL})] * 2), ["--phi3-suite=s.jsonl"]
    ),
    "item's role": (
        "s.jsonl", json.dumps({**ITEM, "messages": [{"role": EVIL, "content": "a"}]}),
        ["--phi3-suite=s.jsonl"],
    ),
    "columns": ("s.jsonl", json.dumps(ITEM), ["--phi3-suite=s.jsonl",
                                              f"--phi3-suite-columns=id={EVIL}"]),
    **{
        f"setting {name}": (SETTINGS_FILE, f"{name} = {TEXT}", [])
        for name in ("base", "profile", "seed", "dtype", "backend", "stage", "suite", "metric",
                     "thresholds", "baseline", "lint_select", "lint_levels")
    },
    "setting's name": (SETTINGS_FILE, f"{TEXT} = 1", []),
    **{
        f"option {name}": ("none", "", [f"--phi3-{name}={EVIL}"])
        for name in ("base", "suite", "thresholds", "baseline", "metric", "profile", "dtype",
                     "backend", "stage", "seed", "adapter")
    },
    "baseline": (
        "record.json", json.dumps({"schema_version": 1, EVIL: EVIL}),
        ["--phi3-baseline=record.json"],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("place", FILES)
def test_no_text_is_a_command(place: str, pytester: pytest.Pytester, good_adapter: Path) -> None:
    name, content, options = FILES[place]
    (pytester.path / name).write_text(content, encoding="utf-8")
    result = gate(pytester, good_adapter, "--phi3-only", "-v", *options, stages=("--collect-only",))
    assert_tame(result.stdout.str())
    assert_tame(result.stderr.str())
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


@pytest.mark.slow
def test_nor_is_the_name_of_an_adapters_folder(
    pytester: pytest.Pytester, nan_adapter: Path
) -> None:
    folder = shutil.copytree(nan_adapter, pytester.path / EVIL)
    result = gate(pytester, folder, "--phi3-only", "-v", "--junitxml=j.xml",
                  stages=("--phi3-stage=static",))  # fmt: skip
    assert result.ret == 1
    for text in (
        result.stdout.str(), result.stderr.str(), (pytester.path / "j.xml").read_text("utf-8")
    ):  # fmt: skip
        assert_tame(text)
