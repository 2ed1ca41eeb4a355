"""The text output of ``suite check``."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from phi3_lora_qa.cli.lint_text import finding_lines
from phi3_lora_qa.data.power import PowerAssumptions
from phi3_lora_qa.errors import escape

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.base_checks.check_base import BaseReport
    from phi3_lora_qa.data.suite_check import GroupReport, Lengths, SuiteReport
    from phi3_lora_qa.gate.limit_feasibility import LimitFeasibility

MOST_SHOWN = 10


def report_lines(
    report: "SuiteReport",
    limits: "Sequence[LimitFeasibility]",
    assumptions: PowerAssumptions,
    source: str,
    about_base: "BaseReport | None" = None,
) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        report: The groups of the suite and its faults.
        limits: Whether each limit can be decided.
        assumptions: The assumptions of the power analysis.
        source: Where the limits come from, such as ``the profile default``.
        about_base: What is wrong with the base; None if there is no base.
    """
    for group in report.groups:
        yield from _group_lines(group)
    yield (
        "assumptions for the smallest detectable changes: a one-sided test at 5% with a power of "
        f"80%, scores that differ on {assumptions.discordant:.0%} of the items, and loss changes "
        f"with a standard deviation of {assumptions.deviation:g} nats per token"
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
            f"items that are {kind}in the training data; remove them from the suite",
            [(it.item, f"training row {it.training_row}", it.similarity) for it in found],
        )
    yield from _marked_lines(report)
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
    if about_base and about_base.findings:
        yield "the base model (not the suite):"
        yield from map(click.unstyle, finding_lines(about_base.findings))
    yield _summary(report, limits, source, about_base)


def _group_lines(group: "GroupReport") -> Iterator[str]:
    size = f" in {group.clusters} clusters, equivalent to {group.independent:.0f} independent items"
    yield f"{escape(group.name, 80)}: {group.items} items{size if group.clusters else ''}"
    if group.with_checks or group.with_choices:
        yield f"  {group.with_checks} with checks, {group.with_choices} with choices"
    yield (
        f"  smallest detectable change: {100 * group.detectable_share:.1f} percentage points of a "
        f"share, {group.detectable_loss:.3f} nats per token of the loss"
    )
    prompt, reference = _shown(group.prompt_words), _shown(group.reference_words)
    yield f"  words: prompt {prompt}, reference {reference}"
    if group.prompt_tokens and group.reference_tokens:
        yield (
            f"  tokens without the chat template: prompt {_shown(group.prompt_tokens)}, "
            f"reference {_shown(group.reference_tokens)}"
        )


def _pair_lines(title: str, pairs: Sequence[tuple[str, str, float]]) -> Iterator[str]:
    if not pairs:
        return
    yield f"{title}: {len(pairs)}"
    for item, other, similarity in pairs[:MOST_SHOWN]:
        yield f"  {escape(item, 80)} is {similarity:.0%} similar to {escape(other, 80)}"
    if len(pairs) > MOST_SHOWN:
        yield f"  and {len(pairs) - MOST_SHOWN} more; --format json lists all"


def _marked_lines(report: "SuiteReport") -> Iterator[str]:
    if not report.marked:
        return
    yield (
        f"answers with a special token of a chat template, which no model could give: "
        f"{len(report.marked)}; remove the tokens, or pass --base if its tokenizer does not have "
        "them"
    )
    for found in report.marked[:MOST_SHOWN]:
        what = "ends an answer" if found.ends_answer else "begins a turn"
        part = "an earlier turn" if found.part == "turn" else f"the {found.part}"
        yield (
            f"  {escape(found.where or found.item, 200)}: {part} contains "
            f"{escape(repr(found.token), 60)}, which {what}"
        )
    if len(report.marked) > MOST_SHOWN:
        yield f"  and {len(report.marked) - MOST_SHOWN} more; --format json lists all"


def _limit_lines(
    limits: "Sequence[LimitFeasibility]", report: "SuiteReport", source: str
) -> Iterator[str]:
    undecidable = [limit for limit in limits if not limit.decidable]
    if not undecidable:
        return
    yield f"too few items for {len(undecidable)} of {len(limits)} limits of {source}:"
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
        return "the suite has no items for it; add some, or remove the limit"
    if found.attainable:
        return f"no number of items can show this; use {limit_text(found.attainable)}"
    unless = ", unless the adapter improves them" if found.limit.rule == "no_worse_than" else ""
    if not found.items_needed:
        return f"needs more than {MOST_ITEMS:,} items (has {found.items}); use a wider margin"
    if group.clusters:
        have = f"{found.items} in clusters, equivalent to {min(group.independent, found.items):.0f}"
        return f"needs {found.items_needed} independent items (has {have}){unless}"
    return f"needs {found.items_needed} items (has {found.items}){unless}"


def _summary(
    report: "SuiteReport",
    limits: "Sequence[LimitFeasibility]",
    source: str,
    about_base: "BaseReport | None",
) -> str:
    faults = []
    if about_base and about_base.errors:
        return f"fix the base first: {about_base.errors[0].rule}"
    if about_base and about_base.affected:
        faults.append(
            f"change the {about_base.affected} items with turns that the base's template drops or "
            "refuses"
        )
    if report.has_faults:
        faults.append(_items_to_fix(report))
    if any(not limit.decidable for limit in limits):
        faults.append("add items, or use wider margins (--thresholds FILE, --profile smoke)")
    if faults:
        return f"fix the suite: {'; '.join(faults)}"
    if not report.is_clean:
        return "no faults found, but not everything was checked"
    return f"OK: no faults, and enough items for every limit of {source} ({len(limits)})"


def _items_to_fix(report: "SuiteReport") -> str:
    repeated = (
        report.duplicates,
        report.near_duplicates,
        report.trained_on,
        report.nearly_trained_on,
    )
    steps = ["remove duplicates and trained items"] if any(repeated) else []
    return "; ".join([*steps, *(["remove special tokens from answers"] if report.marked else [])])


def _shown(lengths: "Lengths") -> str:
    return f"{lengths.least} to {lengths.most} (median {lengths.median:g})"
