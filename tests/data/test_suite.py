"""Suites from every kind of file, read strictly."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.data.chat import Message
from phi3_lora_qa.data.suite import read_suite
from phi3_lora_qa.errors import DataError

ASK = {"role": "user", "content": "Say „ja“, then\nstop."}
ANSWER = {"role": "assistant", "content": "ja, 是"}
ROWS: list[dict[str, Any]] = [
    {"id": "one", "messages": [ASK, ANSWER], "group": "general"},
    {"id": "two", "messages": [ASK], "reference": "nein"},
    {"prompt": "How, much?", "reference": "12"},
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
def test_every_kind_of_file_gives_the_same_items(name: str, tmp_path: Path) -> None:
    items = read_suite([WRITERS[name](tmp_path / name, ROWS)])
    assert [(item.id, item.group, item.reference) for item in items] == [
        ("one", "general", "ja, 是"),
        ("two", "target", "nein"),
        ("suite:3", "target", "12"),
    ]
    assert items[0].prompt == items[1].prompt == (Message(**ASK),)
    assert items[2].prompt == (Message(role="user", content="How, much?"),)


def test_a_number_as_id_becomes_text(tmp_path: Path) -> None:
    rows = [{"id": n, "prompt": "a", "reference": "b"} for n in (1, 2)]
    items = read_suite([write_parquet(tmp_path / "a.parquet", rows)])
    assert [item.id for item in items] == ["1", "2"]


def test_several_files_are_joined_in_their_order(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [ROWS[2]]) for name in "ba"]
    assert [item.id for item in read_suite(paths)] == ["b:1", "a:1"]


def test_the_same_id_in_two_files_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [ROWS[0]]) for name in "ab"]
    with pytest.raises(DataError, match=r"b\.jsonl:1: the id 'one' was used at .*a\.jsonl:1"):
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
        ({"messages": "[{", "reference": "b"}, "no JSON"),
        ({"messages": [ASK]}, "last turn"),
        ([1, 2], "must be an object"),
        ({"prompt": "a", "reference": "b", "group": 3}, "'group' must be"),
    ],
)
def test_a_row_that_is_no_item_is_an_error_with_its_line(
    row: object, complaint: str, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", [ROWS[0], row])
    with pytest.raises(DataError, match=complaint) as caught:
        read_suite([path])
    assert "s.jsonl:2: " in str(caught.value)


def test_columns_that_mean_nothing_here_may_stay(tmp_path: Path) -> None:
    row = {**ROWS[2], "source": "a book", "difficulty": 3}
    assert len(read_suite([write_jsonl(tmp_path / "s.jsonl", [row])])) == 1


def test_an_empty_suite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="suite is empty"):
        read_suite([write_jsonl(tmp_path / "s.jsonl", [])])
    with pytest.raises(DataError, match="no file was named"):
        read_suite([])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b"\xff\xfe", "UTF-8"),
        ("a.jsonl", b"{", "no JSON"),
        ("a.csv", b"\xff\xfe", "UTF-8"),
        ("a.csv", b'prompt,reference\n"a,b\n', "cannot read"),
        ("a.csv", b"prompt,reference\na,b,c\n", "not as many fields"),
        ("a.csv", b"prompt,reference\na\n", "not as many fields"),
        ("a.parquet", b"PAR1 not really", "give a Parquet file"),
        ("a.xlsx", b"", "no kind of suite"),
        ("a", b"", "without a suffix"),
    ],
)
def test_an_unreadable_file_is_one_clear_error(
    name: str, content: bytes, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_suite([tmp_path / name])


def test_a_hub_id_is_refused_with_the_way_to_save_it() -> None:
    with pytest.raises(DataError, match="save_to_disk"):
        read_suite([Path("squad/plain_text")])


def test_a_folder_that_is_no_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="save_to_disk"):
        read_suite([tmp_path])


def test_a_folder_of_several_splits_is_an_error_that_names_them(tmp_path: Path) -> None:
    import datasets

    split = datasets.Dataset.from_list([ROWS[2]])
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(DataError, match="train, test"):
        read_suite([tmp_path / "d"])
    assert len(read_suite([tmp_path / "d" / "test"])) == 1


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
