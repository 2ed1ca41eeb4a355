"""Suites from every kind of file, read strictly."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.answer_checks import Contains, JsonSchema, MaxWords
from phi3_lora_qa.data.chat_items import Message
from phi3_lora_qa.data.suite import read_suite, without_duplicates
from phi3_lora_qa.errors import DataError

ASK = {"role": "user", "content": "Say „ja“, then\nstop."}
ANSWER = {"role": "assistant", "content": "ja, 是"}
ROWS: list[dict[str, Any]] = [
    {"id": "one", "messages": [ASK, ANSWER], "group": "general"},
    {"id": "two", "messages": [ASK], "reference": "nein"},
    {"prompt": "How, much?", "reference": "12"},
]
SCHEMA = {
    "type": "object",
    "required": ["city"],
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
}
RICH: list[dict[str, Any]] = [
    {
        "prompt": "Where?",
        "reference": "Rome",
        "choices": ["Oslo", "Rome"],
        "checks": [{"kind": "contains", "text": "Rome"}, {"kind": "max_words", "words": 3}],
        "cluster": "letter 7",
    },
    {
        "prompt": "As JSON?",
        "reference": "{}",
        "checks": [{"kind": "json_schema", "schema": SCHEMA}],
    },
]


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    names = sorted({name for row in rows for name in row})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
            )
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    import pandas as pd

    pd.DataFrame(rows).to_parquet(path)
    return path


def write_dataset(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    import datasets

    columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
    datasets.Dataset.from_dict(columns).save_to_disk(str(path))
    return path


WRITERS = {
    "suite.jsonl": write_jsonl,
    "suite.csv": write_csv,
    "suite.parquet": write_parquet,
    "suite": write_dataset,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_has_the_same_items(name: str, tmp_path: Path) -> None:
    items = read_suite([WRITERS[name](tmp_path / name, ROWS)])
    assert [(item.id, item.group, item.reference) for item in items] == [
        ("one", "general", "ja, 是"),
        ("two", "target", "nein"),
        ("suite:3", "target", "12"),
    ]
    assert all(str(tmp_path / name) in item.where for item in items)
    assert items[0].prompt == items[1].prompt == (Message(**ASK),)
    assert items[2].prompt == (Message(role="user", content="How, much?"),)


@pytest.mark.parametrize("name", WRITERS)
def test_choices_checks_and_clusters_are_read_from_every_kind_of_file(
    name: str, tmp_path: Path
) -> None:
    bare, schema = RICH
    # An Arrow column cannot contain arbitrary JSON, so there the schema is text.
    as_text = [{"kind": "json_schema", "schema": json.dumps(SCHEMA)}]
    table = [bare, schema | {"checks": as_text}] if name in ("suite.parquet", "suite") else RICH
    first, second = read_suite([WRITERS[name](tmp_path / name, table)])
    assert first.choices == ("Oslo", "Rome")
    assert first.checks == (Contains(text="Rome"), MaxWords(words=3))
    assert (first.cluster, second.cluster, second.choices) == ("letter 7", "", ())
    (check,) = second.checks
    assert isinstance(check, JsonSchema)
    assert json.loads(check.schema) == SCHEMA


@pytest.mark.parametrize("name", WRITERS)
def test_columns_with_other_names_are_renamed_to_fields(name: str, tmp_path: Path) -> None:
    rows = [{"question": "one?", "answer": "1", "group": "maths", "id": "a", "kind": "general"}]
    path = WRITERS[name](tmp_path / name, rows)
    (item,) = read_suite([path], ["prompt=question, reference=answer", "group=kind"])
    assert (item.id, item.prompt[0].content, item.reference) == ("a", "one?", "1")
    assert item.group == "general"


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (["prompt"], "FIELD=COLUMN"),
        (["prompt="], "FIELD=COLUMN"),
        (["question=prompt"], "FIELD=COLUMN"),
        (["prompt=prompt,prompt=id"], "FIELD=COLUMN"),
        (["prompt=prompt,group=subject"], "no row has the column 'subject'.*'group'"),
        (["prompt=frage"], "s.jsonl:1: a row must have either"),
    ],
)
def test_an_invalid_column_option_is_rejected(
    columns: list[str], complaint: str, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", [ROWS[2]])
    with pytest.raises(DataError, match=complaint):
        read_suite([path], columns)


def test_a_number_as_id_becomes_text(tmp_path: Path) -> None:
    rows = [{"id": n, "prompt": "a", "reference": "b"} for n in (1, 2)]
    items = read_suite([write_parquet(tmp_path / "a.parquet", rows)])
    assert [item.id for item in items] == ["1", "2"]


def test_several_files_are_joined_in_order(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [ROWS[2]]) for name in "ba"]
    assert [item.id for item in read_suite(paths)] == ["b:1", "a:1"]


def test_an_id_in_two_files_is_reported_with_both_places(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [ROWS[0]]) for name in "ab"]
    with pytest.raises(DataError, match=r"b\.jsonl:1: the id 'one' is also used at .*a\.jsonl:1"):
        read_suite(paths)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "a"}, "needs a 'reference'"),
        ({"reference": "a"}, "either 'messages' or 'prompt'"),
        ({"prompt": "a", "messages": [ASK, ANSWER]}, "either 'messages' or 'prompt'"),
        ({"prompt": "a", "reference": " "}, "'reference' must be a non-empty string"),
        ({"prompt": 3, "reference": "a"}, "'prompt' must be a non-empty string"),
        ({"prompt": "a", "reference": "b", "gruop": "general"}, "did you mean 'group'"),
        ({"prompt": "half \ud800", "reference": "b"}, "turn 1 contains half a surrogate pair"),
        ({"prompt": "a", "reference": "b\udc00"}, "turn 2 contains half a surrogate pair"),
        ({"prompt": "a", "reference": "b", "id": "\ud800"}, "'id' contains half a surrogate pair"),
        ({"prompt": "a", "reference": "b", "group": "\ud800"}, "'group' contains half"),
        ({"prompt": "a", "reference": "b", "choices": ["b", "\ud800"]}, "a choice contains half"),
        ({"prompt": "a", "reference": "b", "group": "target "}, "without white space around"),
        ({"prompt": "a", "reference": "b", "group": "a\nb"}, "without control characters"),
        ({"messages": "[{", "reference": "b"}, "not JSON"),
        ({"messages": [ASK]}, "last turn"),
        ([1, 2], "must be an object"),
        ({"prompt": "a", "reference": "b", "group": 3}, "'group' must be"),
        ({"prompt": "a", "reference": "b", "cluster": " "}, "'cluster' must be"),
        ({"prompt": "a", "reference": "b", "check": []}, "did you mean 'checks'"),
        ({"prompt": "a", "reference": "b", "checks": "[{"}, "'checks' is not JSON"),
        ({"prompt": "a", "reference": "b", "checks": [{"kind": "jsn"}]}, "check 1 has the kind"),
        ({"prompt": "a", "reference": "b", "choices": ["a", "c"]}, "not one of the choices"),
        ({"prompt": "a", "reference": "b", "choices": ["b"]}, "two or more different"),
        ({"prompt": "a", "reference": "b", "choices": ["b", "b"]}, "two or more different"),
        ({"prompt": "a", "reference": "b", "choices": ["b", 3]}, "two or more different"),
        ({"prompt": "a", "reference": "b", "choices": {"A": "b"}}, "two or more different"),
    ],
)
def test_an_invalid_row_is_reported_with_its_line(
    row: object, complaint: str, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", [ROWS[0], row])
    with pytest.raises(DataError, match=complaint) as caught:
        read_suite([path])
    assert "s.jsonl:2: " in str(caught.value)


def test_a_repeated_field_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"prompt": "a", "reference": "b", "reference": "c"}')
    with pytest.raises(DataError, match=r"s\.jsonl:1: .*'reference' occurs twice"):
        read_suite([path])
    path = tmp_path / "s.csv"
    path.write_text("prompt,reference,,,reference\na,b,,,c\n")
    with pytest.raises(DataError, match=r"s\.csv:1: two columns are called 'reference'"):
        read_suite([path])
    path.write_text("prompt,reference,,\na,b,,\n")  # a spreadsheet leaves empty columns
    assert len(read_suite([path])) == 1


def test_unknown_columns_are_ignored(tmp_path: Path) -> None:
    row = {**ROWS[2], "source": "a book", "difficulty": 3}
    assert len(read_suite([write_jsonl(tmp_path / "s.jsonl", [row])])) == 1


def test_an_empty_suite_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="suite is empty"):
        read_suite([write_jsonl(tmp_path / "s.jsonl", [])])
    with pytest.raises(DataError, match="no file was named"):
        read_suite([])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b"\xff\xfe", "UTF-8"),
        ("a.jsonl", b"{", "not JSON"),
        ("a.csv", b"\xff\xfe", "UTF-8"),
        ("a.csv", b'prompt,reference\n"a,b\n', "cannot read .*a.csv in line 2"),
        ("a.csv", b"prompt,reference\n" + b"a" * 200_000 + b",b\n", "or pass JSON lines"),
        ("a.csv", b"prompt,reference\na,b,c\n", "does not have as many fields"),
        ("a.csv", b"prompt,reference\na\n", "does not have as many fields"),
        ("a.parquet", b"PAR1 not really", "pass a Parquet file"),
        ("a.xlsx", b"", "not a supported kind of suite"),
        ("a", b"", "without a suffix"),
    ],
)
def test_an_unreadable_file_is_reported(
    name: str, content: bytes, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_suite([tmp_path / name])


def test_a_hub_id_is_rejected_with_the_way_to_save_the_data_set() -> None:
    with pytest.raises(DataError, match="save_to_disk"):
        read_suite([Path("squad/plain_text")])
    with pytest.raises(DataError, match="there is no suite"):
        read_suite([Path("a" * 5000 + ".jsonl")])


def test_a_folder_that_is_not_a_data_set_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="save_to_disk"):
        read_suite([tmp_path])


def test_a_folder_of_several_splits_is_rejected_with_their_names(tmp_path: Path) -> None:
    import datasets

    split = datasets.Dataset.from_list([ROWS[2]])
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(DataError, match="train, test"):
        read_suite([tmp_path / "d"])
    assert len(read_suite([tmp_path / "d" / "test"])) == 1


def test_which_duplicate_is_kept_does_not_depend_on_the_order(tmp_path: Path) -> None:
    copies = [{**ROWS[2], "id": name, "cluster": name} for name in "bca"]
    for rows in (copies, copies[::-1]):
        items = read_suite([write_jsonl(tmp_path / "s.jsonl", [ROWS[0], *rows])])
        assert [item.id for item in without_duplicates(items)] == ["one", "a"]


def test_json_lines_load_nothing_heavy(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", ROWS)
    code = (
        "import sys, pathlib; from phi3_lora_qa.data.suite import read_suite; "
        "import phi3_lora_qa.data.thresholds; "
        f"assert len(read_suite([pathlib.Path({str(path)!r})])) == 3; "
        "heavy = {'torch', 'pandas', 'datasets', 'numpy', 'scipy', 'evaluate'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
