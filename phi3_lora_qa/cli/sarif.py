"""A lint report as SARIF 2.1.0, the form that code hosts show as annotations.

The format: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0, sections 3.13
(log), 3.19 (tool component), 3.27 (result) and 3.49 (rule).
"""

import importlib.metadata
import json
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from phi3_lora_qa.adapter.finding import Finding, Rule, Severity, all_rules
from phi3_lora_qa.adapter.folder import CONFIG, MATTERS, WEIGHTS
from phi3_lora_qa.adapter.lint import LintReport

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def to_sarif(report: LintReport) -> str:
    """Return the report as one SARIF log with one run."""
    rules = all_rules()
    places = {rule.id: number for number, rule in enumerate(rules)}
    driver = {
        "name": "phi3-lora-qa",
        "version": importlib.metadata.version("phi3-lora-qa"),
        "rules": [_rule(rule) for rule in rules],
    }
    results = [_result(finding, places[finding.rule], report) for finding in report.findings]
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": results,
        "properties": {"adapter": report.adapter, "verdict": report.verdict},
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}\n\nHow to mend it: {rule.fix}."},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"family": rule.family},
    }


def _result(finding: Finding, place: int, report: LintReport) -> dict[str, Any]:
    return {
        "ruleId": finding.rule,
        "ruleIndex": place,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}. Fix: {finding.fix}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(report.adapter, _file(finding))}
                },
                "logicalLocations": [{"fullyQualifiedName": finding.where}],
            }
        ],
    }


def _file(finding: Finding) -> str:
    """The file that a place is in: named by it, or the config's or the weights' by the family."""
    name = finding.where.partition(":")[0]
    if name in MATTERS or finding.rule.startswith("files-"):
        return name
    return CONFIG if finding.rule.startswith("config-") else WEIGHTS


def _uri(adapter: str, name: str) -> str:
    path = PurePath(adapter)
    text = quote((path / name).as_posix(), safe="/")
    return f"file://{text}" if path.is_absolute() else text
