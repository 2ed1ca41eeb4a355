"""The text output of ``suite check``."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.data.power import PowerAssumptions
from phi3_lora_qa.errors import escape

if TYPE_CHECKING:
    from phi3_lora_qa.data.suite_check import GroupReport, Lengths, SuiteReport
    from phi3_lora_qa.gate.limit_feasibility import LimitFeasibility

MOST_SHOWN = 10


def report_lines(
    report: "SuiteReport",
    limits: "Sequence[LimitFeasibility]",
    assumptions: PowerAssumptions,
    source: str,
) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        report: The groups of the suite and its faults.
        limits: Whether each limit can be decided.
        assumptions: The assumptions that the report's power is based on.
        source: Where the limits come from, in words.
    """
    for group in report.groups:
        yield from _group_lines(group)
    yield (
        "assumed for the smallest detectable changes: a one-sided test at 5 %, power 80 %, scores "
        f"that differ on {assumptions.discordant:.0%} of the items, changes of loss with a "
        f"standard deviation of {assumptions.deviation:g} nats per token"
    )
    yield from _pair_lines(
        "duplicates of another item; remove them (the gate counts exact duplicates once)",
        [(pair.item, pair.other, pair.similarity) for pair in report.duplicates],
    )
    yield from _pair_lines(
        "near duplicates of another item; reword them or put them into one cluster",
        [(pair.item, pair.other, pair.similarity) for pair in report.near_duplicates],
    )
    for kind, found in (("", report.trained_on), ("nearly ", report.nearly_trained_on)):
        yield from _pair_lines(
            f"items that were {kind}trained on; remove them from the suite",
            [(it.item, f"training row {it.training_row}", it.similarity) for it in found],
        )
    for words, count in (
        ("with all others for near duplicates", report.not_compared),
        ("with all training rows", report.not_compared_with_training),
    ):
        if count:
            yield (
                f"not checked: {count} items were not compared {words}, because too many texts "
                "are similar; check the suite in parts"
            )
    yield from _limit_lines(limits, report, source)
    yield _summary(report, limits, source)


def _group_lines(group: "GroupReport") -> Iterator[str]:
    worth = f" in {group.clusters} clusters, worth {group.independent:.0f} independent items"
    yield f"{escape(group.name, 80)}: {group.items} items{worth if group.clusters else ''}"
    if group.with_checks or group.with_choices:
        yield f"  {group.with_checks} with checks, {group.with_choices} with choices"
    yield (
        f"  smallest detectable change: {100 * group.detectable_share:.1f} points of a share, "
        f"{group.detectable_loss:.3f} nats per token of the loss"
    )
    prompt, reference = _shown(group.prompt_words), _shown(group.reference_words)
    yield f"  prompt {prompt} words, reference {reference}"
    if group.prompt_tokens and group.reference_tokens:
        yield (
            f"  prompt {_shown(group.prompt_tokens)} tokens, "
            f"reference {_shown(group.reference_tokens)}, without the chat template"
        )


def _pair_lines(title: str, pairs: Sequence[tuple[str, str, float]]) -> Iterator[str]:
    if not pairs:
        return
    yield f"{title}: {len(pairs)}"
    for item, other, similarity in pairs[:MOST_SHOWN]:
        yield f"  {escape(item, 80)} is {similarity:.0%} similar to {escape(other, 80)}"
    if len(pairs) > MOST_SHOWN:
        yield f"  and {len(pairs) - MOST_SHOWN} more; --format json lists all"


def _limit_lines(
    limits: "Sequence[LimitFeasibility]", report: "SuiteReport", source: str
) -> Iterator[str]:
    undecidable = [limit for limit in limits if not limit.decidable]
    if not undecidable:
        return
    yield f"too few items for {len(undecidable)} of {len(limits)} of {source}:"
    groups = {group.name: group for group in report.groups}
    for found in undecidable:
        yield f"  {_limit_words(found)}: {_reason(found, groups.get(found.limit.group))}"


def _limit_words(found: "LimitFeasibility") -> str:
    from phi3_lora_qa.data.thresholds import limit_text

    limit = found.limit
    return f"{escape(limit.group, 80)} {escape(limit.metric, 80)} {limit_text(limit)}"


def _reason(found: "LimitFeasibility", group: "GroupReport | None") -> str:
    from phi3_lora_qa.data.thresholds import limit_text
    from phi3_lora_qa.gate.limit_feasibility import MOST_ITEMS

    if not found.items or group is None:
        return "the suite has no such items; add some, or remove the limit"
    if found.attainable:
        return f"no number of items shows this; write {limit_text(found.attainable)}"
    unless = ", unless the adapter improves them" if found.limit.rule == "no_worse_than" else ""
    if not found.items_needed:
        return f"needs more than {MOST_ITEMS:,} items (has {found.items}); use a wider margin"
    if group.clusters:
        have = f"{found.items} in clusters, worth {min(group.independent, found.items):.0f}"
        return f"needs {found.items_needed} independent items (has {have}){unless}"
    return f"needs {found.items_needed} items (has {found.items}){unless}"


def _summary(report: "SuiteReport", limits: "Sequence[LimitFeasibility]", source: str) -> str:
    faults = []
    if report.has_faults:
        faults.append("remove duplicates and trained items")
    if any(not limit.decidable for limit in limits):
        faults.append("add items, or use wider margins (--thresholds FILE, --profile smoke)")
    if faults:
        return f"fix the suite: {'; '.join(faults)}"
    if not report.is_clean:
        return "no faults found, but not everything was checked"
    return f"OK: no faults, and enough items for {source} ({len(limits)})"


def _shown(lengths: "Lengths") -> str:
    return f"{lengths.least} to {lengths.most} (median {lengths.median:g})"
