"""Writes a lint report as JSON, the format for programs."""

import json
from dataclasses import asdict
from typing import Any

from phi3_lora_qa.adapter.finding import Finding, Severity
from phi3_lora_qa.adapter.lint_report import LintReport, UncheckedRule
from phi3_lora_qa.adapter.rule_catalogue import find_rule

SCHEMA_VERSION = 1


def to_json(report: LintReport) -> str:
    """Return the report as one JSON object.

    ``summary`` and ``totals`` count all places; ``findings`` lists at most ten places of each rule.
    ``base_findings`` is there only if something is wrong with the base itself.
    """
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "adapter": report.adapter,
        "verdict": report.verdict,
        "findings": [_finding(finding) for finding in report.findings],
        "totals": dict(report.totals),
        "unchecked": [asdict(rule) for rule in report.unchecked],
        "summary": {
            "errors": report.count(Severity.ERROR),
            "warnings": report.count(Severity.WARNING),
            "infos": report.count(Severity.INFO),
            "findings_listed": len(report.findings),
            "rules_run": len(report.rules_run),
            "unchecked": [_sentence(rule) for rule in report.unchecked],
            "ignored": list(report.ignored),
        },
    }
    if report.base_findings:
        content["base_findings"] = [_finding(finding) for finding in report.base_findings]
    return json.dumps(content, indent=2)


def _finding(finding: Finding) -> dict[str, str]:
    """Return the five fields that other programs rely on."""
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "where": finding.where,
        "message": finding.message,
        "fix": finding.fix,
    }


def _sentence(rule: UncheckedRule) -> str:
    reason = f"fix {rule.fix_first} first" if rule.fix_first else f"needs the {rule.missing[0]}"
    return f"{find_rule(rule.rule).title} ({reason})"
