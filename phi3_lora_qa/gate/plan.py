"""The list of what must run, known before anything runs and without torch.

The same settings give the same list in every process: the collector makes its items from it, and
the verdict holds what ran against it. What pytest later drops, by whatever means, is missed.
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
        adapters: Each adapter's name and its quality limits, in the order given by the user.
        stages: The chosen stages.
        selection: The chosen rules of the static stage; all by default.

    Raises:
        InputError: Two checks would have one id, and one result would stand for both.
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
    """Groups and adapters stand in ids, and may hold the commas and brackets between the parts."""

    def words(one: PlannedCheck) -> str:
        whose = f" (adapter {escape(repr(names[one.adapter]), 80)})" if len(names) > 1 else ""
        return f"{escape(one.check.demand or one.check.label, 200)}{whose}"

    seen: dict[str, PlannedCheck] = {}
    for one in planned:
        other = seen.setdefault(one.id, one)
        if other is not one:
            what = "a group" if other.adapter == one.adapter else "a group or an adapter's folder"
            raise InputError(
                f"two checks have the id {escape(one.id, 200)}: {words(other)}; and {words(one)}; "
                f"give {what} another name, without commas and brackets"
            )


def choose(planned: Sequence[PlannedCheck], ids: Sequence[str]) -> tuple[PlannedCheck, ...]:
    """Return the checks named on the command line; an id of a stage stands for all its checks.

    Raises:
        InputError: An id names nothing.
    """
    chosen = []
    for given in ids:
        parts = (f"{given}::", f"{given}[")
        found = [p for p in planned if p.id == given or p.id.startswith(parts)]
        if not found:
            raise InputError(
                f"no check has the id {escape(given, 200)}; "
                "`pytest --collect-only -q --phi3-adapter=PATH` lists them"
            )
        chosen += found
    return tuple(p for p in planned if p in chosen)
