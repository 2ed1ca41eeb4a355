"""The list of the checks that must run, made before anything runs and without torch.

The same settings give the same list in every process. The collector makes its items from it, and
the verdict compares it with the checks that ran. So a check that pytest drops is noticed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.adapter.rule_selection import Selection
from phi3_lora_qa.data.thresholds import Limit
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.gate.check import Check
from phi3_lora_qa.gate.checks import checkpoint, export, mathematics, quality, static
from phi3_lora_qa.setting_specs import STAGES

ROOT = "phi3"


@dataclass(frozen=True, kw_only=True)
class PlannedCheck:
    """One check of one adapter; ``id`` is its test id in pytest."""

    id: str
    adapter: int
    check: Check


def plan(
    adapters: Sequence[tuple[str, Sequence[Limit]]],
    stages: Sequence[str],
    selection: Selection | None = None,
) -> tuple[PlannedCheck, ...]:
    """Return every check that must run, adapter by adapter, in the stages' order.

    Args:
        adapters: Each adapter's name and its quality limits, in the user's order.
        stages: The selected stages.
        selection: The selected rules of the static stage; all by default.

    Raises:
        InputError: Two checks would have the same id, so that one result would count for both.
    """
    planned: list[PlannedCheck] = []
    for index, (name, limits) in enumerate(adapters):
        suffix = f"[{name}]" if len(adapters) > 1 else ""
        checks = {
            "static": static.checks(selection or Selection()),
            "math": mathematics.checks(),
            "checkpoint": checkpoint.checks(),
            "quality": quality.checks(limits),
            "export": export.checks(),
        }
        for stage in STAGES:
            if stage in stages:
                planned += [
                    PlannedCheck(
                        id=f"{ROOT}::{stage}::{check.label}{suffix}", adapter=index, check=check
                    )
                    for check in checks[stage]
                ]
    _require_distinct(planned, [name for name, _ in adapters])
    return tuple(planned)


def _require_distinct(planned: Sequence[PlannedCheck], names: Sequence[str]) -> None:
    """Refuse equal ids: names of groups and adapters may contain commas and brackets."""

    def describe(one: PlannedCheck) -> str:
        whose = f" (adapter {escape(repr(names[one.adapter]), 80)})" if len(names) > 1 else ""
        return f"{escape(one.check.demand or one.check.label, 200)}{whose}"

    seen: dict[str, PlannedCheck] = {}
    for one in planned:
        other = seen.setdefault(one.id, one)
        if other is not one:
            what = "a group" if other.adapter == one.adapter else "a group or an adapter's folder"
            raise InputError(
                f"two checks have the id {escape(one.id, 200)}: {describe(other)}; "
                f"and {describe(one)}; "
                f"rename {what}, without commas and brackets"
            )


def choose(planned: Sequence[PlannedCheck], ids: Sequence[str]) -> tuple[PlannedCheck, ...]:
    """Return the checks that the command line selects; the id of a stage selects all its checks.

    Raises:
        InputError: An id matches no check.
    """
    chosen = []
    for given in ids:
        parts = (f"{given}::", f"{given}[")
        found = [p for p in planned if p.id == given or p.id.startswith(parts)]
        if not found:
            raise InputError(
                f"unknown check: {escape(given, 200)}; "
                "list the known ones with pytest --collect-only -q --phi3-adapter=PATH"
            )
        chosen += found
    return tuple(p for p in planned if p in chosen)
