"""A lint report as SARIF 2.1.0, the form that code hosts show as annotations.

The format: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0, sections 3.11
(message), 3.13 (log), 3.19 (tool component), 3.20 (invocation), 3.27 (result) and 3.49 (rule).
"""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from phi3_lora_qa.adapter.finding import Finding, Rule, Severity, all_rules
from phi3_lora_qa.adapter.folder import CONFIG, EXPECTED_FILES, WEIGHTS
from phi3_lora_qa.adapter.lint import MAX_FINDINGS, LintReport
from phi3_lora_qa.cli.lint import wanting

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def to_sarif(report: LintReport) -> str:
    """Return the report as one SARIF log with one run."""
    rules = all_rules()
    numbers = {rule.id: number for number, rule in enumerate(rules)}
    driver = {
        "name": "phi3-lora-qa",
        "version": importlib.metadata.version("phi3-lora-qa"),
        "rules": [_rule(rule) for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(report, numbers)],
        "results": list(_results(report, numbers)),
        "properties": {"adapter": report.adapter, "verdict": report.verdict},
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": _message(f"{rule.title}."),
        "fullDescription": _message(rule.why),
        "help": _message(f"{rule.why}\n\nHow to mend it: {rule.fix}."),
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"family": rule.family},
    }


def _invocation(report: LintReport, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Say what the user switched off, and what could not be looked at."""
    found: dict[str, Any] = {
        "executionSuccessful": True,
        "exitCode": 0 if report.accepted else 1,
        "ruleConfigurationOverrides": [
            {"descriptor": {"id": id, "index": numbers[id]}, "configuration": {"enabled": False}}
            for id in report.ignored  # noqa: A001 - the word of the format
        ],
        "properties": {"ignored": list(report.ignored), "unchecked": list(report.unchecked)},
    }
    if report.unchecked:
        note = _message(f"not checked: {wanting(report.unchecked)}")
        found["toolConfigurationNotifications"] = [{"level": "note", "message": note}]
    return found


def _results(report: LintReport, numbers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    seen: Counter[str] = Counter()
    for finding in report.findings:
        seen[finding.rule] += 1
        counts = seen[finding.rule] > MAX_FINDINGS  # it stands for others, at no place of its own
        place = {"uri": _uri(report.adapter, "" if counts else _file(finding))}
        yield {
            "ruleId": finding.rule,
            "ruleIndex": numbers[finding.rule],
            "level": _LEVELS[finding.severity],
            "message": _message(f"{finding.message}. Fix: {finding.fix}"),
            "locations": [
                {
                    "physicalLocation": {"artifactLocation": place},
                    "logicalLocations": [{"fullyQualifiedName": finding.where}],
                }
            ],
        }


def _message(text: str) -> dict[str, str]:
    """A text that is shown as it is: braces are no placeholders, and brackets make no link."""
    return {"text": text.replace("{", "{{").replace("}", "}}").replace("](", "] (")}


def _file(finding: Finding) -> str:
    """The file that a place is in: named by it, or the config's or the weights' by the family."""
    for name in EXPECTED_FILES:
        if finding.where == name or finding.where.startswith(f"{name}: "):
            return name
    if finding.rule.startswith("files-"):
        return finding.where
    return CONFIG if finding.rule.startswith("config-") else WEIGHTS


def _uri(adapter: str, name: str) -> str:
    path = PurePath(adapter)
    text = quote((path / name).as_posix(), safe="/")
    return f"file://{text}" if path.is_absolute() else text
