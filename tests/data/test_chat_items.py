"""Chat items are read strictly, and every message begins with the file and line."""

from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.answer_checks import MaxWords
from phi3_lora_qa.data.chat_items import (
    Item,
    Message,
    parse_conversation,
    parse_item,
    read_jsonl,
    require_group,
)
from phi3_lora_qa.errors import DataError

ASK = {"role": "user", "content": "Where?"}
ANSWER = {"role": "assistant", "content": "Rome"}


def test_a_row_becomes_an_item() -> None:
    row = {
        "messages": [ASK, ANSWER],
        "id": "capital",
        "group": "general",
        "choices": ["Oslo", "Rome"],
        "checks": [{"kind": "max_words", "words": 1}],
        "cluster": "page 2",
    }
    assert parse_item(row, "s:1", "unused") == Item(
        id="capital",
        prompt=(Message(role="user", content="Where?"),),
        reference="Rome",
        group="general",
        choices=("Oslo", "Rome"),
        checks=(MaxWords(words=1),),
        cluster="page 2",
    )


def test_the_defaults_are_the_given_id_and_the_group_target() -> None:
    item = parse_item({"messages": [ASK, ANSWER]}, "s:1", "s:1")
    assert (item.id, item.group, item.where) == ("s:1", "target", "s:1")
    assert (item.choices, item.checks, item.cluster) == ((), (), "")


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([], "non-empty list of turns"),
        ("hello", "non-empty list of turns"),
        (["hello"], "turn 1 must be an object"),
        ([{"role": "tool", "content": "x"}], "turn 1 has the role 'tool'; use one of system"),
        ([{"role": "user", "content": 3}], "the content of turn 1 must be a string"),
        ([ASK], "the last turn must be a non-empty assistant message"),
        ([ASK, {"role": "assistant", "content": " "}], "the last turn must be"),
        ([ANSWER, ANSWER], "there is no user turn before the reference"),
    ],
)
def test_an_invalid_conversation_is_rejected(turns: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        parse_conversation(turns, "s.jsonl:7")
    assert str(caught.value).startswith("s.jsonl:7: ")


@pytest.mark.parametrize("group", [" target", "target\u200b", "a\nb", "::warning", "##[x]"])
def test_a_group_that_could_be_mistaken_is_rejected(group: str) -> None:
    with pytest.raises(DataError, match="'group' is "):
        require_group(group, "s:1")


def test_json_lines_have_their_place_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\xef\xbb\xbf[1]\r\n\n  \n{}\n")
    assert list(read_jsonl(path)) == [(f"{path}:1", [1]), (f"{path}:4", {})]
