"""``phi3-lora-qa suite``: the limits that a suite can decide, and its faults."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phi3_lora_qa.cli.path_types import PATH
from phi3_lora_qa.cli.suite_text import report_lines
from phi3_lora_qa.data.power import PowerAssumptions
from phi3_lora_qa.errors import BaseModelError, InputError, escape
from phi3_lora_qa.setting_specs import PROFILES

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.base_checks.check_base import BaseReport
    from phi3_lora_qa.data.chat_items import Item
    from phi3_lora_qa.data.turn_tokens import TurnTokens
    from phi3_lora_qa.gate.limit_feasibility import LimitFeasibility

SCHEMA_VERSION = 2


@click.group("suite")
def app() -> None:
    """Check evaluation suites."""


@app.command()
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("--train", type=PATH, help="Training data; report the suite's items that are in it.")
@click.option(
    "--columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="The column of a field, if its name differs (repeatable).",
)
@click.option("--base", metavar="DIR_OR_ID", help="Use this base's tokenizer.")
@click.option("--thresholds", type=PATH, help="A TOML file of limits, instead of a profile.")
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    default="default",
    show_default=True,
    help="The built-in limits that the suite must be able to decide.",
)
@click.option(
    "--discordant",
    default=PowerAssumptions.discordant,
    show_default=True,
    help="Assumed share of items whose score differs between base and tuned model.",
)
@click.option(
    "--deviation",
    default=PowerAssumptions.deviation,
    show_default=True,
    help="Assumed standard deviation of the change in an item's loss, in nats per token.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="Output format.",
)
def check(  # noqa: PLR0913, PLR0917 - click makes options of arguments
    files: tuple[Path, ...],
    train: Path | None,
    columns: tuple[str, ...],
    base: str | None,
    thresholds: Path | None,
    profile: str,
    discordant: float,
    deviation: float,
    format_: str,
) -> None:
    """Check that the suite FILES can decide every limit, and find duplicates and trained items."""
    from phi3_lora_qa.data.suite import read_suite, without_duplicates
    from phi3_lora_qa.data.suite_check import check_suite
    from phi3_lora_qa.data.training_data import read_conversations

    if not 0.0 < discordant <= 1.0:
        raise InputError(
            f"--discordant is out of range: {discordant:g}; pass a share above 0 and at most 1"
        )
    if not 0.0 < deviation < float("inf"):
        raise InputError(f"--deviation is out of range: {deviation:g}; pass a positive number")
    assumptions = PowerAssumptions(discordant=discordant, deviation=deviation)
    items = read_suite(files, columns)
    about_base = _check_base(base, items) if base else None
    report = check_suite(
        items,
        read_conversations(train) if train else (),
        assumptions,
        _token_counter(base) if base else None,
        turn_tokens=_turn_tokens(base),
    )
    limits = _check_limits(without_duplicates(items), thresholds, profile)
    source = str(thresholds) if thresholds else f"the profile {profile}"
    suits = about_base is None or not (about_base.errors or about_base.affected)
    sound = report.is_clean and suits and all(limit.decidable for limit in limits)
    if format_ == "json":
        found = {
            "schema_version": SCHEMA_VERSION,
            "sound": sound,
            "assumed": asdict(assumptions),
            "limits": [asdict(limit) for limit in limits],
        }
        if about_base:
            found["base_findings"] = [asdict(finding) for finding in about_base.findings]
        print(json.dumps(found | asdict(report), indent=2))
    else:
        print("\n".join(report_lines(report, limits, assumptions, source, about_base)))
    sys.exit(0 if sound else 1)


def _check_base(base: str, items: "Sequence[Item]") -> "BaseReport":
    """Check the base with which the suite will be used, and its template with the suite's turns."""
    from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
    from phi3_lora_qa.adapter.base_checks.base_view import BaseView
    from phi3_lora_qa.adapter.base_checks.check_base import check_base
    from phi3_lora_qa.models.registry import resolve_base

    ref = resolve_base(base)
    if ref.folder is None:
        raise BaseModelError(
            f"the base {escape(ref.name, 200)} is not on this machine; fetch it "
            f"(phi3-lora-qa base fetch {escape(ref.name, 200)}), or leave out --base"
        )
    prompts = [tuple(turn.role for turn in item.prompt) for item in items]
    report = check_base(BaseView(ref.folder, id=ref.id, prompts=prompts), uses=[BaseUse.ANSWERS])
    if not report.is_readable:
        report.require_usable()
    return report


def _check_limits(
    items: "Sequence[Item]", thresholds: Path | None, profile: str
) -> "tuple[LimitFeasibility, ...]":
    """Check the suite against the limits that a gate with it would have."""
    from phi3_lora_qa.data.thresholds import default_limits, expand, read_thresholds
    from phi3_lora_qa.gate.comparison import select_metrics
    from phi3_lora_qa.gate.limit_feasibility import check_limits
    from phi3_lora_qa.metrics import known_metrics, share_metrics

    groups = sorted({item.group for item in items})
    limits = (
        read_thresholds(thresholds, known_metrics(), share_metrics())
        if thresholds
        else default_limits(groups, profile)
    )
    expanded = expand(limits, groups)
    return check_limits(items, expanded, select_metrics((), expanded))


def _turn_tokens(base: str | None) -> "TurnTokens":
    """Return the special tokens that no answer may contain: the base's or the well-known."""
    from phi3_lora_qa.data.turn_tokens import WELL_KNOWN
    from phi3_lora_qa.models.base_turn_tokens import read_turn_tokens
    from phi3_lora_qa.models.registry import resolve_base

    return (read_turn_tokens(resolve_base(base)) if base else None) or WELL_KNOWN


def _token_counter(base: str) -> Callable[[str], int]:
    """Return a function that counts a text's tokens, from the base's files, without its model."""
    from tokenizers import Tokenizer

    from phi3_lora_qa.models.registry import resolve_base

    ref = resolve_base(base)
    file = ref.folder / "tokenizer.json" if ref.folder else None
    if file is None or not file.is_file():
        raise BaseModelError(
            f"the tokenizer of {escape(ref.name, 200)} is not on this machine as a "
            "tokenizer.json; fetch the base, or leave out --base"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises a bare Exception
        raise BaseModelError(
            f"cannot read {file}: {escape(str(error), 200)}; use a base with a tokenizer.json"
        ) from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
