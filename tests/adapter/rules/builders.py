"""Shared helpers of the tests of the rules."""

from pathlib import Path

from tests.adapter.adapters import Adapter, report_on


def rules_of(
    adapter: Adapter, folder: Path, base: Path | None = None, *, families: tuple[str, ...]
) -> set[str]:
    """Lint an adapter and return the rules of these families that found something."""
    found = report_on(adapter, folder, base).findings
    return {finding.rule for finding in found if finding.rule.startswith(families)}
