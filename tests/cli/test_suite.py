"""``suite check`` as a user runs it: what it prints, and its exit status."""

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3_lora_qa.cli import app
from phi3_lora_qa.data import suite_check
from phi3_lora_qa.errors import DataError, Phi3LoraQAError
from phi3_lora_qa.models.registry import bundled


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["suite", "check", *map(str, arguments)])


def write(path: Path, *questions: str) -> Path:
    rows = [{"prompt": text, "reference": "yes", "id": f"{path.stem} {text}"} for text in questions]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_every_bundled_suite_is_sound() -> None:
    for suite, train in (
        ("general/suite.jsonl", "smollm2/train.jsonl"),
        ("smollm2/general.jsonl", "smollm2/train.jsonl"),
        ("smollm2/target.jsonl", "smollm2/train.jsonl"),
        ("tiny/suite.jsonl", "tiny/train.jsonl"),
    ):
        done = run(bundled(suite), "--train", bundled(train))
        assert done.exit_code == 0, done.output
        assert "nothing to mend" in done.output


def test_copies_and_trained_questions_end_with_one_and_are_named(tmp_path: Path) -> None:
    suite = write(tmp_path / "s.jsonl", "Is it?", "is  it?", "Was it?")
    done = run(suite)
    assert done.exit_code == 1
    assert "items that repeat another; take them out (exact copies count once): 1" in done.output
    assert "s is  it? is 100% like s Is it?" in done.output
    turns = [{"role": "user", "content": "Was it?"}, {"role": "assistant", "content": "no"}]
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"messages": turns}))
    done = run(write(tmp_path / "t.jsonl", "Is it?", "was it?"), "--train", train)
    assert done.exit_code == 1
    assert "items that were trained on; take them out of the suite: 1" in done.output
    assert "training row 1" in done.output


def test_a_search_that_ends_early_says_what_was_not_checked_and_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(suite_check.check_suite, budget=10)
    monkeypatch.setattr(suite_check, "check_suite", small)
    words = [f"word{n}" for n in range(40)]
    asked = [" ".join([*words[:9], f"a{n}", *words[10:19], f"b{n}", *words[20:]]) for n in range(6)]
    suite = write(tmp_path / "s.jsonl", *asked)
    done = run(suite)
    assert done.exit_code == 1
    assert "not checked: 1 items were not compared with all others" in done.output
    assert done.output.endswith("nothing was found to mend, but not all checked\n")
    found = json.loads(run(suite, "--format", "json").output)
    assert (found["sound"], found["not_compared"]) == (False, 1)


def test_json_holds_the_whole_report(tmp_path: Path) -> None:
    questions = [f"{n}?" for n in range(12)]
    suite = write(tmp_path / "s.jsonl", *questions, *(f" {text}" for text in questions))
    done = run(suite, "--format", "json", "--discordant", 0.2, "--base", "tiny")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert found["sound"] is False
    assert found["assumed"] == {"discordant": 0.2, "deviation": 0.3}
    assert len(found["duplicates"]) == 12
    assert found["groups"][0]["items"] == 24
    assert found["groups"][0]["prompt_tokens"]["least"] > 0
    assert "and 2 more" in run(suite).output


def test_foreign_columns_are_named(tmp_path: Path) -> None:
    suite = tmp_path / "s.csv"
    suite.write_text("question,answer\nWhy?,Because\n")
    assert run(suite, "--columns", "prompt=question,reference=answer").exit_code == 0
    assert isinstance(run(suite).exception, DataError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "xml"],
        ["--discordant", "0"],
        ["--discordant", "nan"],
        ["--deviation", "-1"],
        ["--train", "nowhere.jsonl"],
        ["--base", "nowhere"],
    ],
)
def test_what_cannot_be_used_is_bad_input(arguments: list[str], tmp_path: Path) -> None:
    suite = write(tmp_path / "s.jsonl", "Is it?")
    assert isinstance(run(suite, *arguments).exception, Phi3LoraQAError)
