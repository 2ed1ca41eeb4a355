"""``--phi3-engine``: both engines give the same metrics, and the record names the one used."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.models.registry import bundled
from phi3_lora_qa.scoring.engine_probe import fast_engine_fault
from phi3_lora_qa.scoring.kv_cache import KVCache

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def probe_again() -> Iterator[None]:
    fast_engine_fault.cache_clear()
    yield
    fast_engine_fault.cache_clear()


@pytest.fixture
def suite(pytester: pytest.Pytester) -> tuple[str, ...]:
    """Options for a third of the bundled items, with the bundled limits."""
    lines = (bundled("tiny") / "suite.jsonl").read_text().splitlines(keepends=True)
    (pytester.path / "short.jsonl").write_text("".join(lines[::3]))
    return ("--phi3-suite=short.jsonl", f"--phi3-thresholds={bundled('tiny/thresholds.toml')}")


def gate(pytester: pytest.Pytester, adapter: Path, *options: str) -> dict[str, Any]:
    """Run the quality stage, and return the record."""
    result = pytester.runpytest_inprocess(
        f"--phi3-adapter={adapter}",
        "--phi3-base=tiny",
        "--phi3-only",
        "--phi3-report=out",
        "--phi3-stage=quality",
        *options,
    )
    assert result.ret == 0, result.stdout.str()
    record: dict[str, Any] = json.loads((pytester.path / "out" / "record.json").read_text())
    return record


def assert_same_metrics(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["verdict"] == other["verdict"] == "PASS"
    assert len(one["metrics"]) == len(other["metrics"]) > 10
    for mine, theirs in zip(one["metrics"], other["metrics"], strict=True):
        for name in ("group", "metric", "n", "outcome"):
            assert mine[name] == theirs[name]
        for name in ("base", "tuned", "difference"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-4, nan_ok=True), mine


def test_both_engines_give_the_same_metrics_and_are_named_in_the_record(
    pytester: pytest.Pytester, good_adapter: Path, suite: tuple[str, ...]
) -> None:
    fast = gate(pytester, good_adapter, *suite)
    plain = gate(pytester, good_adapter, *suite, "--phi3-engine=plain")
    assert fast["environment"]["engine"] == "fast"
    assert plain["environment"]["engine"] == "plain"
    assert plain["settings"]["engine"] == {
        "value": "plain",
        "source": "--phi3-engine",
        "kind": "option",
    }
    assert "plain engine" in plain["environment"]["products_base_float32"]
    assert "plain engine" in plain["environment"]["products_tuned_float32"]
    assert not any("engine_fallback" in record["environment"] for record in (fast, plain))
    assert_same_metrics(fast, plain)


def test_a_fallback_is_in_the_record_with_the_version_of_transformers(
    pytester: pytest.Pytester,
    good_adapter: Path,
    suite: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fast = gate(pytester, good_adapter, *suite)
    fast_engine_fault.cache_clear()
    monkeypatch.delattr(KVCache, "update")
    environment = (fallen := gate(pytester, good_adapter, *suite))["environment"]
    shown = capfd.readouterr().out
    assert f"fast does not fit: transformers {version('transformers')}" in shown
    assert environment["engine"] == "plain"
    assert environment["engine_fallback"].startswith(f"transformers {version('transformers')} ")
    assert fallen["settings"]["engine"]["value"] == "fast"
    assert_same_metrics(fast, fallen)


def test_an_engine_does_not_use_the_cached_scores_of_the_other(
    pytester: pytest.Pytester,
    good_adapter: Path,
    suite: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHI3_LORA_QA_CACHE", str(pytester.path / "cache"))
    options = (*suite, "--phi3-cache-scores=on")

    def cached(*more: str) -> str:
        environment = gate(pytester, good_adapter, *options, *more)["environment"]
        (note,) = (str(v) for k, v in environment.items() if k.startswith("base_scores"))
        return note.partition(" of ")[0]

    assert cached() == "0"
    assert cached() == "100"
    assert cached("--phi3-engine=plain") == "0"
    assert cached("--phi3-engine=plain") == "100"
    assert cached() == "100"
