import json
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.training_data import (
    TrainingData,
    load_training_data,
    require_plain_answers,
)
from phi3_lora_qa.data.turn_tokens import WELL_KNOWN
from phi3_lora_qa.errors import DataError


def row(question: str, answer: str = "yes") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", [row(f"question {i}") for i in range(40)])


def questions(side: Any) -> list[str]:
    return [messages[0]["content"] for messages in side["messages"]]


def test_the_split_has_every_row_once_and_the_given_share(many: Path) -> None:
    data = load_training_data(many, validation_fraction=0.25)
    train, held_out = questions(data.train), questions(data.validation)
    assert len(held_out) == 10
    assert sorted(train + held_out) == sorted(f"question {i}" for i in range(40))


def test_the_split_depends_on_the_seed_only(many: Path) -> None:
    first, again, other = (load_training_data(many, seed=seed) for seed in (3, 3, 4))
    assert questions(first.validation) == questions(again.validation)
    assert questions(first.validation) != questions(other.validation)
    assert first.sha256 == again.sha256 != other.sha256


def test_at_least_one_row_is_held_out(tmp_path: Path) -> None:
    path = write(tmp_path / "two.jsonl", [row("a"), row("b")])
    data = load_training_data(path, validation_fraction=0.001)
    assert (len(data.train), len(data.validation)) == (1, 1)


def test_with_a_validation_file_nothing_is_split_off(many: Path, tmp_path: Path) -> None:
    held_out = write(tmp_path / "held.jsonl", [row("new 1"), row("new 2")])
    data = load_training_data(many, held_out)
    assert len(data.train) == 40
    assert questions(data.validation) == ["new 1", "new 2"]


def test_validation_rows_whose_prompts_are_trained_on_are_left_out(
    many: Path, tmp_path: Path
) -> None:
    held_out = write(tmp_path / "held.jsonl", [row("QUESTION  7", "another answer"), row("new")])
    data = load_training_data(many, held_out)
    assert questions(data.validation) == ["new"]
    assert data.leaked == 1


def test_a_split_of_repeated_prompts_stays_disjoint(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row(f"q{i % 20}") for i in range(30)])
    data = load_training_data(path, validation_fraction=0.4)
    assert not set(questions(data.train)) & set(questions(data.validation))
    assert data.leaked + len(data.validation) == 12
    assert data.leaked


def test_repeated_training_rows_are_counted_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row("a"), row("a"), row("b"), row("a")])
    held_out = write(tmp_path / "held.jsonl", [row("new")])
    data = load_training_data(path, held_out)
    assert (len(data.train), data.repeated) == (4, 2)


def test_the_hash_depends_on_the_content_and_not_on_the_path(tmp_path: Path, many: Path) -> None:
    def load(path: Path) -> TrainingData:
        return load_training_data(path)

    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(many.read_bytes())
    changed = write(tmp_path / "changed.jsonl", [row(f"question {i}!") for i in range(40)])
    assert load(copy).sha256 == load(many).sha256 != load(changed).sha256


def test_all_turns_of_a_conversation_are_kept_and_other_keys_ignored(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief.", "name": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    path = write(tmp_path / "rows.jsonl", [{"id": "x", "messages": turns}])
    held_out = write(tmp_path / "held.jsonl", [row("new")])
    (messages,) = load_training_data(path, held_out).train["messages"]
    assert messages == [{"role": t["role"], "content": t["content"]} for t in turns]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"messages": []}', "rows.jsonl:2: 'messages' must be a non-empty list"),
        ('{"text": "plain"}', "rows.jsonl:2: 'messages' must be a non-empty list"),
        ("[1]", "rows.jsonl:2: a row must be an object"),
        ("{", "rows.jsonl:2: not JSON"),
        (json.dumps({"messages": [{"role": "tool", "content": "x"}]}), "rows.jsonl:2: turn 1"),
        (json.dumps(row("a", "")), "rows.jsonl:2: the last turn"),
        (json.dumps(row("a", "half \ud800")), "rows.jsonl:2: turn 2 contains half a surrogate"),
    ],
)
def test_an_invalid_row_is_reported_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("a")) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_training_data(path)
    assert says in str(caught.value)


def test_an_empty_or_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        load_training_data(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(DataError, match="cannot read"):
        load_training_data(tmp_path / "absent.jsonl")


def test_one_row_cannot_both_train_and_validate(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be split"):
        load_training_data(write(tmp_path / "one.jsonl", [row("a")]))


def test_a_validation_set_without_new_prompts_is_rejected(tmp_path: Path, many: Path) -> None:
    held_out = write(tmp_path / "held.jsonl", [row("question 1"), row("question 2")])
    with pytest.raises(DataError, match="the prompts of all 2 validation rows"):
        load_training_data(many, held_out)


def test_a_stop_token_in_an_answer_is_rejected_with_its_line_and_a_fix(tmp_path: Path) -> None:
    clean = write(tmp_path / "clean.jsonl", [row("a"), row("<|end|>")])
    require_plain_answers([clean], WELL_KNOWN)
    rows = [row("a"), row("b", "yes<|end|>"), row("c", "<|end|>")]
    with pytest.raises(DataError) as caught:
        require_plain_answers([clean, write(tmp_path / "rows.jsonl", rows)], WELL_KNOWN)
    assert str(caught.value) == (
        f"{tmp_path}/rows.jsonl:2: turn 2, of the assistant, contains the stop token '<|end|>', so "
        "the model would learn to go on after an answer's end; remove it, because the chat "
        "template writes the one that ends the turn (1 more row has such a token)"
    )


def test_a_token_that_begins_a_turn_is_rejected_in_an_answer(tmp_path: Path) -> None:
    rows = [row("a", "yes\n<|user|> and b?")]
    with pytest.raises(DataError, match=r"begins a turn; remove it, or split the text into turns$"):
        require_plain_answers([write(tmp_path / "rows.jsonl", rows)], WELL_KNOWN)
