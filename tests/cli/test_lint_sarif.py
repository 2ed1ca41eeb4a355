"""Tests of the SARIF report."""

import json
import re
from pathlib import Path

from phi3_lora_qa.adapter.rule_catalogue import documented_rules
from phi3_lora_qa.models.paths import bundled
from tests.adapter.adapters import plain
from tests.adapter.base_variants import GENERATION, copy_base, edit_json
from tests.adapter.faults import spoil
from tests.cli.builders import hostile_adapter, run, sarif_run, with_programs


def test_every_rule_is_named_and_every_finding_has_a_place(tmp_path: Path) -> None:
    adapters = {"hostile": hostile_adapter(), "bad": spoil(plain(), "nan", 0.5)}
    for name, spoilt in adapters.items():
        adapter = spoilt.save(tmp_path / name)
        result = run("lint", adapter, "--format", "sarif")
        assert result.exit_code == 1
        log = json.loads(result.stdout)
        assert log["version"] == "2.1.0"
        (one,) = log["runs"]
        rules = one["tool"]["driver"]["rules"]
        assert [rule["id"] for rule in rules] == [rule.id for rule in documented_rules()]
        assert one["results"]
        for found in one["results"]:
            assert rules[found["ruleIndex"]]["id"] == found["ruleId"]
            assert found["level"] in ("error", "warning", "note")
            assert found["message"]["text"].isprintable()
            (place,) = found["locations"]
            uri = place["physicalLocation"]["artifactLocation"]["uri"]
            assert uri.startswith(f"file://{adapter}/")
            assert re.fullmatch(r"[A-Za-z0-9_./:%~-]+", uri)


def test_ignored_and_unchecked_rules_are_in_the_invocation(tmp_path: Path) -> None:
    one = sarif_run(plain(), tmp_path, "--ignore", "values-nan")
    (invocation,) = one["invocations"]
    assert invocation["executionSuccessful"]
    assert invocation["exitCode"] == 0
    (override,) = invocation["ruleConfigurationOverrides"]
    rules = one["tool"]["driver"]["rules"]
    assert rules[override["descriptor"]["index"]]["id"] == "values-nan"
    assert override["configuration"] == {"enabled": False}
    (note,) = invocation["toolConfigurationNotifications"]
    assert "--base" in note["message"]["text"]
    assert invocation["properties"]["ignored"] == ["values-nan"]
    assert {"rule": "base-sizes", "missing": ["base"], "fix_first": ""} in invocation["properties"][
        "unchecked"
    ]


def test_a_finding_is_placed_in_the_file_that_it_names(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = {"!a:b.py": b"", "!{0}](x).py": b""} | with_programs(11).files
    adapter.config["r"] = "{0} [more](http://x)"
    one = sarif_run(adapter, tmp_path)
    results = one["results"]
    names = [
        (result["ruleId"], place["physicalLocation"]["artifactLocation"]["uri"])
        for result in results
        for place in result["locations"]
    ]
    folder = f"file://{tmp_path}"
    assert ("files-code", f"{folder}/%21a%3Ab.py") in names
    assert ("config-value", f"{folder}/adapter_config.json") in names
    assert sum(rule == "files-code" for rule, _ in names) == 10
    (note,) = one["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"] == "files-code: 3 more places are not listed"
    assert one["properties"]["totals"]["files-code"] == 13
    (text,) = [r["message"]["text"] for r in results if r["ruleId"] == "config-value"]
    assert "{{0}}" in text
    assert "](" not in text


def test_a_finding_about_the_base_is_a_result_without_a_file_of_the_adapter(
    tmp_path: Path,
) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, min_length=3)
    result = run("lint", bundled("tiny") / "adapter", "--base", base, "--format", "sarif")
    (one,) = json.loads(result.stdout)["runs"]
    (found,) = one["results"]
    rules = one["tool"]["driver"]["rules"]
    assert rules[found["ruleIndex"]]["id"] == found["ruleId"] == "basemodel-penalties"
    assert found["message"]["text"].startswith("The base model, not the adapter: ")
    (place,) = found["locations"]
    assert set(place) == {"logicalLocations"}
    assert result.exit_code == 0
