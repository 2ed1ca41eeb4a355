"""The schema in the package is current, and accepts records and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from phi3_lora_qa.record import RunRecord
from phi3_lora_qa.record_schema import SCHEMA_FILE, schema_text
from tests.report.builders import failing, incomplete, metric, passing
from tests.report.hostile import hostile_record

SAMPLE = Path(__file__).parents[1] / "reports" / "sample" / "record.json"
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def test_the_file_is_current_and_a_schema() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run `make schema`"
    Draft202012Validator.check_schema(SCHEMA)


def test_the_sample_record_is_valid() -> None:
    VALIDATOR.validate(json.loads(SAMPLE.read_text(encoding="utf-8")))


@pytest.mark.parametrize("build", [passing, failing, incomplete, hostile_record])
def test_a_fresh_record_is_valid(build: Callable[[], RunRecord]) -> None:
    VALIDATOR.validate(json.loads(build().to_json()))


def test_numbers_that_are_not_finite_and_metrics_without_a_limit_are_valid() -> None:
    record = passing(metrics=[metric(limit=None, low=float("-inf"), high=float("nan"))])
    VALIDATOR.validate(json.loads(record.to_json()))


def damaged(path: str, value: object) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(failing().to_json())
    place: Any = raw
    *folders, last = path.split(".")
    for name in folders:
        place = place[int(name) if name.isdecimal() else name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", 1),
        ("schema_version", ...),
        ("verdict", "OK"),
        ("more", 1),
        ("adapter.sha256", []),
        ("base.id", None),
        ("settings.base", "tiny"),
        ("checks.0.outcome", "no_limit"),
        ("checks.0.seconds", "1.0"),
        ("metrics.0.limit", "loss no worse than the base by more than 0.05"),
        ("metrics.0.limit.rule", "better"),
        ("metrics.0.limit.against", "the base"),
        ("metrics.0.outcome", ...),
        ("metrics.0.n", 1.5),
        ("metrics.0.base", "NaN"),
        ("spectra.0.singular_values", {}),
        ("timings.0.tokens", "many"),
        ("items", None),
    ],
)
def test_a_damaged_record_is_not_valid(path: str, value: object) -> None:
    assert not VALIDATOR.is_valid(damaged(path, value))
