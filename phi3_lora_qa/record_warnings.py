"""The lint warnings of a run, as its static checks measured them: their number and the first."""

from collections.abc import Mapping, Sequence

from phi3_lora_qa.record import CheckResult

WARNING = "warning"
_ABOUT_WEIGHTS = ("tensors", "values")
"""The families whose warnings are named first: they say what was trained."""


def count_warnings(checks: Sequence[CheckResult]) -> int:
    """Return the number of places at which the linter's rules of level warning found something."""
    counts = (check.measured.get("warnings") for check in checks if check.stage == "static")
    return sum(count for count in counts if type(count) is int)


def describe_warnings(checks: Sequence[CheckResult]) -> str:
    """Return the number of warnings and the first one, for the end of a sentence.

    Args:
        checks: The results of the run's checks.

    Returns:
        Such as ``with 2 warnings, first: tensors-target-idle: …``; empty if there are none.
    """
    count = count_warnings(checks)
    if not count:
        return ""
    found = [
        finding
        for check in checks
        if check.stage == "static"
        for finding in _findings(check)
        if finding.get("severity") == WARNING
    ]
    found.sort(key=lambda finding: _family(finding) not in _ABOUT_WEIGHTS)  # stable
    first = f"{found[0].get('rule')}: {found[0].get('message')}" if found else ""
    return (
        f"with {count} warning{'s' * (count > 1)}"
        + (", first" if first and count > 1 else "")
        + (f": {first}" if first else "")
    )


def _findings(check: CheckResult) -> list[Mapping[str, object]]:
    found = check.measured.get("findings")
    return [f for f in found if isinstance(f, Mapping)] if isinstance(found, list | tuple) else []


def _family(finding: Mapping[str, object]) -> str:
    return str(finding.get("rule")).partition("-")[0]
