"""``suite check`` as a user runs it: its output and its exit status."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3_lora_qa.cli import app
from phi3_lora_qa.data import suite_check
from phi3_lora_qa.errors import DataError, Phi3LoraQAError
from phi3_lora_qa.models.registry import bundled
from tests.adapter.base_variants import (
    GENERATION,
    POINTER,
    WITHOUT_SYSTEM,
    copy_base,
    edit_json,
    write_template,
)

NO_LIMITS = """
[[limit]]
group = "target"
metric = "loss"
rule = "at_most"
value = 10
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["suite", "check", *map(str, arguments)])


def write(path: Path, *questions: str) -> Path:
    rows = [{"prompt": text, "reference": "yes", "id": f"{path.stem} {text}"} for text in questions]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def numbered(path: Path, n: int) -> Path:
    return write(path, *(f"What is {number}?" for number in range(n)))


@pytest.mark.parametrize(
    ("suites", "train", "thresholds"),
    [
        (["general/suite.jsonl"], "smollm2/train.jsonl", "general/thresholds.toml"),
        (["tiny/suite.jsonl"], "tiny/train.jsonl", "tiny/thresholds.toml"),
        (["tiny/suite.jsonl"], "tiny/train.jsonl", None),
    ],
)
def test_every_bundled_suite_is_sound(
    suites: Sequence[str], train: str, thresholds: str | None
) -> None:
    options = ["--thresholds", bundled(thresholds)] if thresholds else []
    done = run(*map(bundled, suites), "--train", bundled(train), *options)
    assert done.exit_code == 0, done.output
    assert "OK: no faults, and enough items for every limit of" in done.output


def test_the_suite_of_the_demo_is_clean_and_relies_on_an_improvement_of_one_group() -> None:
    suites = (bundled("smollm2/target.jsonl"), bundled("smollm2/general.jsonl"))
    options = ["--thresholds", bundled("smollm2/thresholds.toml")]
    done = run(*suites, "--train", bundled("smollm2/train.jsonl"), *options, "--format", "json")
    found = json.loads(done.output)
    assert not any(found[name] for name in found if name.endswith(("duplicates", "trained_on")))
    few = [one["limit"] for one in found["limits"] if not one["decidable"]]
    assert {(limit["group"], limit["rule"]) for limit in few} == {("safety", "no_worse_than")}


def test_a_suite_that_is_too_small_for_the_gates_limits_is_not_sound(tmp_path: Path) -> None:
    """A gate with it would be inconclusive."""
    done = run(numbered(tmp_path / "s.jsonl", 5))
    assert done.exit_code == 1
    assert "too few items for 3 of 3 limits of the profile default:" in done.output
    assert "  target loss better than the base by more than 0.05: needs 10 items (has 5)\n" in (
        done.output
    )
    assert (
        "exact_match no worse than the base by more than 0.1: needs 29 items (has 5), unless"
        in (done.output)
    )
    assert done.output.endswith(
        "fix the suite: add items, or use wider margins (--thresholds FILE, --profile smoke)\n"
    )


def test_the_limits_are_those_of_the_profile_or_of_the_file(tmp_path: Path) -> None:
    suite = numbered(tmp_path / "s.jsonl", 12)
    assert run(suite).exit_code == 1
    assert run(suite, "--profile", "strict").exit_code == 1
    done = run(suite, "--profile", "smoke")
    assert (done.exit_code, "of the profile smoke (3)" in done.output) == (0, True), done.output
    limits = tmp_path / "limits.toml"
    limits.write_text(NO_LIMITS)
    done = run(suite, "--thresholds", limits)
    assert (done.exit_code, f"every limit of {limits} (1)" in done.output) == (0, True), done.output
    limits.write_text(NO_LIMITS.replace("target", "safety"))
    done = run(suite, "--thresholds", limits)
    assert done.exit_code == 1
    assert "safety loss at most 10: the suite has no items for it" in done.output


def test_duplicates_and_trained_questions_end_with_one_and_are_named(tmp_path: Path) -> None:
    suite = write(tmp_path / "s.jsonl", "Is it?", "is  it?", "Was it?")
    done = run(suite)
    assert done.exit_code == 1
    assert "duplicates of another item; remove them" in done.output
    assert "s is  it? is 100% similar to s Is it?" in done.output
    turns = [{"role": "user", "content": "Was it?"}, {"role": "assistant", "content": "no"}]
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"messages": turns}))
    done = run(write(tmp_path / "t.jsonl", "Is it?", "was it?"), "--train", train)
    assert done.exit_code == 1
    assert "items that are in the training data; remove them from the suite: 1" in done.output
    assert "training row 1" in done.output


def test_a_search_that_ends_early_says_what_was_not_checked_and_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(suite_check.check_suite, budget=10)
    monkeypatch.setattr(suite_check, "check_suite", small)
    words = [f"word{n}" for n in range(40)]
    asked = [" ".join([*words[:9], f"a{n}", *words[10:19], f"b{n}", *words[20:]]) for n in range(6)]
    suite = write(tmp_path / "s.jsonl", *asked)
    limits = tmp_path / "limits.toml"
    limits.write_text(NO_LIMITS.replace("target", "*"))
    done = run(suite, "--thresholds", limits)
    assert done.exit_code == 1
    assert "not checked: 1 items were not compared with all others for near duplicates" in (
        done.output
    )
    found = json.loads(run(suite, "--format", "json").output)
    assert (found["sound"], found["not_compared"]) == (False, 1)


@pytest.mark.parametrize("base", [(), ("--base", "tiny")])
def test_a_stop_token_in_an_answer_is_a_fault_with_file_and_line(
    base: Sequence[str], tmp_path: Path
) -> None:
    suite = numbered(tmp_path / "s.jsonl", 300)
    text = suite.read_text()
    options = (suite, *base, "--profile", "smoke", "--format", "json")
    assert json.loads(run(*options).output)["marked"] == []
    suite.write_text(text.replace('"yes"', '"yes<|end|>"', 1))
    found = json.loads(run(*options).output)
    assert not found["sound"]
    assert found["marked"] == [
        {
            "item": "s What is 0?",
            "where": f"{suite}:1",
            "part": "reference",
            "token": "<|end|>",
            "ends_answer": True,
        }
    ]
    shown = run(suite, *base)
    assert shown.exit_code == 1
    assert f"{suite}:1: the reference contains '<|end|>', which ends an answer" in shown.output


def test_with_a_base_only_its_own_tokens_count(tmp_path: Path) -> None:
    """As the text output says: ChatML's token is ordinary text for a Phi-3."""
    suite = write(tmp_path / "s.jsonl", "What ends a turn in ChatML?")
    suite.write_text(suite.read_text().replace("yes", "<|im_end|>"))
    alone, based = (
        json.loads(run(suite, *base, "--format", "json").output)["marked"]
        for base in ((), ("--base", "tiny"))
    )
    assert [found["token"] for found in alone] == ["<|im_end|>"]
    assert based == []


def test_json_has_the_whole_report(tmp_path: Path) -> None:
    questions = [f"{n}?" for n in range(12)]
    suite = write(tmp_path / "s.jsonl", *questions, *(f" {text}" for text in questions))
    done = run(suite, "--format", "json", "--discordant", 0.2, "--base", "tiny")
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert (found["schema_version"], found["sound"]) == (2, False)
    assert found["assumed"] == {"discordant": 0.2, "deviation": 0.3}
    assert len(found["duplicates"]) == 12
    assert found["duplicates"][0] == {"item": "s  0?", "other": "s 0?", "similarity": 1.0}
    assert found["groups"][0]["items"] == 24
    assert found["groups"][0]["prompt_tokens"]["least"] > 0
    assert {limit["limit"]["metric"]: limit["decidable"] for limit in found["limits"]} == {
        "loss": True, "token_f1": False, "exact_match": False,
    }  # fmt: skip
    assert "and 2 more" in run(suite).output


def test_columns_with_different_names_are_mapped(tmp_path: Path) -> None:
    suite = tmp_path / "s.csv"
    suite.write_text("question,answer\n" + "".join(f"Why {n}?,Because\n" for n in range(60)))
    assert run(suite, "--columns", "prompt=question,reference=answer").exit_code == 0
    assert isinstance(run(suite).exception, DataError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--discordant", "0"],
        ["--discordant", "nan"],
        ["--deviation", "-1"],
        ["--deviation", "inf"],
        ["--train", "nowhere.jsonl"],
        ["--thresholds", "nowhere.toml"],
        ["--base", "nowhere"],
    ],
)
def test_unusable_options_are_bad_input(arguments: list[str], tmp_path: Path) -> None:
    suite = write(tmp_path / "s.jsonl", "Is it?")
    assert isinstance(run(suite, *arguments).exception, Phi3LoraQAError)


@pytest.mark.parametrize("arguments", [["--format", "xml"], ["--profile", "lenient"]])
def test_an_unknown_choice_is_a_usage_error(arguments: list[str], tmp_path: Path) -> None:
    done = run(write(tmp_path / "s.jsonl", "Is it?"), *arguments)
    assert done.exit_code == 2
    assert arguments[1] in done.output


def test_turns_that_the_base_drops_make_a_suite_unsound(tmp_path: Path) -> None:
    base = write_template(copy_base(tmp_path / "base"), WITHOUT_SYSTEM)
    options = [bundled("tiny/suite.jsonl"), "--thresholds", bundled("tiny/thresholds.toml")]
    assert run(*options, "--base", "tiny").exit_code == 0
    result = run(*options, "--base", base)
    assert result.exit_code == 1
    assert "the base model (not the suite):" in result.stdout
    assert "205 of 300 items of the suite have a turn that the model never sees" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("fix the suite: change the 205 items")
    content = json.loads(run(*options, "--base", base, "--format", "json").stdout)
    (found,) = content["base_findings"]
    assert (found["rule"], content["sound"]) == ("basemodel-template-drops-turns", False)


def test_a_base_whose_answers_cannot_end_is_fixed_first(tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=741)
    options = [bundled("tiny/suite.jsonl"), "--thresholds", bundled("tiny/thresholds.toml")]
    result = run(*options, "--base", base)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "fix the base first: basemodel-stop-tokens"
    edit_json(base, GENERATION, eos_token_id=748, repetition_penalty=1.1)
    result = run(*options, "--base", base)
    assert result.exit_code == 0  # a penalty says nothing about the suite
    assert "basemodel-penalties" in result.stdout


def test_a_base_with_a_pointer_is_refused(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / "tokenizer.json").write_bytes(POINTER)
    result = run(numbered(tmp_path / "a.jsonl", 3), "--base", base)
    assert isinstance(result.exception, Phi3LoraQAError)
    assert "basemodel-files" in str(result.exception)
