"""The record: what it counts, and how a file that cannot be read is refused."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.record import RunRecord, load_record
from phi3_lora_qa.report import write_report
from tests.report.builders import failing, item, items, passing, stopped_early


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_report(failing(), items(2), tmp_path / "report")
    return tmp_path / "report"


def change(folder: Path, **changes: object) -> Path:
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_a_record_is_loaded_from_its_file_or_its_folder(folder: Path) -> None:
    record = load_record(folder / "record.json")
    assert load_record(str(folder)) == record
    assert record.to_json() == failing(items="items.parquet").to_json()
    assert record.metrics[0].limit == failing().metrics[0].limit


def test_a_record_of_version_1_is_refused_with_the_command_that_makes_a_new_one(
    folder: Path,
) -> None:
    settings = {
        "adapter": {"value": ["adapters/ferry desk"], "source": "--phi3-adapter"},
        "base": {"value": "tiny", "source": "--phi3-base"},
        "suite": {"value": ["a.jsonl", "b.jsonl"], "source": "pytest.ini"},
        "thresholds": {"value": "limits.toml", "source": "PHI3_LORA_QA_THRESHOLDS"},
        "profile": {"value": "default", "source": "default"},
        "seed": {"value": 0, "source": "default"},
        "dtype": {"value": "bfloat16", "source": "--phi3-dtype"},
        "stage": {"value": ["static", "quality"], "source": "--phi3-stage"},
    }
    adapter = {"path": "adapters/ferry desk", "name": "ferry desk"}
    path = change(folder, schema_version=1, settings=settings, adapter=adapter)
    with pytest.raises(InputError) as caught:
        load_record(path)
    message, _, command = str(caught.value).partition("; run the gate again: ")
    assert message.endswith("its schema version is 1, and this version of phi3-lora-qa reads 2")
    assert shlex.split(command) == [
        "pytest", "--phi3-only", "--phi3-adapter=adapters/ferry desk", "--phi3-base=tiny",
        "--phi3-suite=a.jsonl", "--phi3-suite=b.jsonl", "--phi3-thresholds=limits.toml",
        "--phi3-stage=static", "--phi3-stage=quality", "--phi3-dtype=bfloat16",
        f"--phi3-report={folder}",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", [{}, {"settings": 3, "adapter": []}, {"settings": {"base": 1}}])
def test_the_command_is_given_where_an_old_record_tells_nothing(
    tmp_path: Path, damage: dict[str, Any]
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema_version": 1} | damage))
    with pytest.raises(InputError, match="pytest --phi3-only --phi3-adapter=ADAPTER --phi3-report"):
        load_record(path)


def test_a_hostile_name_in_an_old_record_stays_one_word_of_one_line(folder: Path) -> None:
    path = change(folder, schema_version=1, adapter={"path": "a\n$(touch pwned)\u202e"})
    with pytest.raises(InputError) as caught:
        load_record(path)
    assert "\n" not in str(caught.value)
    words = shlex.split(str(caught.value).partition("again: ")[2])
    assert words[2].startswith("--phi3-adapter=a\\n$(touch pwned)")
    assert len(words) == 6  # with the base, the seed and the report


@pytest.mark.parametrize("version", ["2", None, 2.0, True, []])
def test_a_version_that_is_not_a_number_is_not_a_record(folder: Path, version: object) -> None:
    with pytest.raises(InputError, match=r"has no schema version; pass a record\.json"):
        load_record(change(folder, schema_version=version))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"verdict": "OK"}, "RunRecord.verdict must be 'PASS' or"),
        ({"metrics": [{}]}, r"RunRecord.metrics\[0\] has no field 'group'"),
        ({"items": 3}, "RunRecord.items must be str"),
        ({"seconds": "long"}, "RunRecord.seconds must be a number"),
        ({"more": 1}, "RunRecord has an unknown field 'more'"),
    ],
)
def test_a_damaged_record_is_refused_with_the_field_and_the_command(
    folder: Path, changes: dict[str, object], where: str
) -> None:
    with pytest.raises(InputError, match=f"damaged: {where}.*: pytest --phi3-only"):
        load_record(change(folder, **changes))


def counts(record: RunRecord) -> tuple[int, int]:
    return record.items_scored, record.items_skipped_early


def test_the_items_that_were_scored_and_skipped_are_read_from_the_checks_fields() -> None:
    assert counts(passing()) == (0, 0)
    checks = stopped_early(194, 106)
    assert counts(passing(checks=checks)) == (194, 106)
    named = replace(checks[-1], id=f"{checks[-1].id}[ferry]")
    assert counts(passing(checks=[named])) == (194, 106)
    other = replace(checks[-1], id=f"{checks[-1].id}_again")
    assert counts(passing(checks=[other])) == (0, 0)
    assert counts(passing(checks=stopped_early("many", -1))) == (0, 0)


def test_an_item_failed_where_one_of_the_models_has_no_score() -> None:
    assert not item(1).failed
    assert item(1, base_error="no loss").failed
    assert item(1, tuned_error="no loss").failed
