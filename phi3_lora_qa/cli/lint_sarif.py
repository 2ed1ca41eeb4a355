"""Writes a lint report as SARIF 2.1.0, the format that code hosts show as annotations.

The format: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0, sections 3.11
(message), 3.13 (log), 3.19 (tool component), 3.20 (invocation), 3.27 (result), 3.49 (rule) and 3.58
(notification).
"""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from phi3_lora_qa.adapter.finding import Finding, Severity, family_of
from phi3_lora_qa.adapter.folder import CONFIG, EXPECTED_FILES, WEIGHTS
from phi3_lora_qa.adapter.lint_report import LintReport, describe_unchecked
from phi3_lora_qa.adapter.rule import DocumentedRule
from phi3_lora_qa.adapter.rule_catalogue import documented_rules

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def to_sarif(report: LintReport) -> str:
    """Return the report as one SARIF log with one run."""
    rules = documented_rules()
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
        "properties": {
            "adapter": report.adapter,
            "verdict": report.verdict,
            "summary": report.summary,
            "totals": dict(report.totals),
        },
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(rule: DocumentedRule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": _message(f"{rule.title}."),
        "fullDescription": _message(rule.why),
        "help": _message(f"{rule.why}\n\nHow to fix it: {rule.fix}."),
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"family": rule.family},
    }


def _invocation(report: LintReport, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the rules that the user disabled, the unchecked rules and the unlisted places."""
    found: dict[str, Any] = {
        "executionSuccessful": True,
        "exitCode": 0 if report.accepted else 1,
        "ruleConfigurationOverrides": [
            {"descriptor": {"id": id, "index": numbers[id]}, "configuration": {"enabled": False}}
            for id in report.ignored  # noqa: A001 - SARIF's name
        ],
        "properties": {
            "ignored": list(report.ignored),
            "unchecked": [asdict(rule) for rule in report.unchecked],
        },
    }
    if report.unchecked:
        text = f"not checked: {describe_unchecked(report.unchecked)}"
        found["toolConfigurationNotifications"] = [_note(text)]
    if unlisted := report.unlisted():
        found["toolExecutionNotifications"] = [
            _note(f"{rule}: {count} more places are not listed") for rule, count in unlisted.items()
        ]
    return found


def _results(report: LintReport, numbers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for finding in report.findings:
        file = {"uri": _uri(report.adapter, _file(finding))}
        yield _result(finding, numbers, {"physicalLocation": {"artifactLocation": file}})
    for finding in report.base_findings:  # of files that are not in the adapter's folder
        yield _result(finding, numbers, {}, "The base model, not the adapter: ")


def _result(
    finding: Finding, numbers: Mapping[str, int], location: Mapping[str, Any], about: str = ""
) -> dict[str, Any]:
    place = {**location, "logicalLocations": [{"fullyQualifiedName": finding.where}]}
    return {
        "ruleId": finding.rule,
        "ruleIndex": numbers[finding.rule],
        "level": _LEVELS[finding.severity],
        "message": _message(f"{about}{finding.message}. Fix: {finding.fix}"),
        "locations": [place],
    }


def _note(text: str) -> dict[str, Any]:
    return {"level": "note", "message": _message(text)}


def _message(text: str) -> dict[str, str]:
    """Return text to be shown literally: without placeholders in braces and links in brackets."""
    return {"text": text.replace("{", "{{").replace("}", "}}").replace("](", "] (")}


def _file(finding: Finding) -> str:
    """Return the file of a finding: the one in its place, or the one that its family checks."""
    if finding.file:
        return finding.file
    family = family_of(finding.rule)
    if family == "files" or finding.where in EXPECTED_FILES:
        return finding.where
    return CONFIG if family == "config" else WEIGHTS


def _uri(adapter: str, name: str) -> str:
    path = PurePath(adapter)
    text = quote((path / name).as_posix(), safe="/")
    return f"file://{text}" if path.is_absolute() else text
