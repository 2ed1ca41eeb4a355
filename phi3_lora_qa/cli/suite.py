"""``phi3-lora-qa suite``: what a suite of items can decide, and what is wrong with it."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phi3_lora_qa.cli.path_types import PATH
from phi3_lora_qa.data.assumed import Assumed
from phi3_lora_qa.errors import BaseModelError, InputError, escape

if TYPE_CHECKING:
    from phi3_lora_qa.data.suite_check import Lengths, Pair, SuiteReport

SCHEMA_VERSION = 1
FORMATS = ("text", "json")
MOST_SHOWN = 10


@click.group("suite")
def app() -> None:
    """Look suites over."""


@app.command()
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("--train", type=PATH, help="Training data that no item may be taken from.")
@click.option(
    "--columns", multiple=True, metavar="FIELD=COLUMN", help="What the files call a field."
)
@click.option("--base", metavar="DIR_OR_ID", help="Count tokens with this base's tokenizer.")
@click.option(
    "--discordant",
    default=Assumed.discordant,
    show_default=True,
    help="Assumed share of items that base and tuned score differently.",
)
@click.option(
    "--deviation",
    default=Assumed.deviation,
    show_default=True,
    help="Assumed standard deviation of an item's change of loss, in nats per token.",
)
@click.option("--format", "format_", default="text", show_default=True, help="text or json.")
def check(  # noqa: PLR0913, PLR0917 - click makes options of arguments
    files: tuple[Path, ...],
    train: Path | None,
    columns: tuple[str, ...],
    base: str | None,
    discordant: float,
    deviation: float,
    format_: str,
) -> None:
    """Say what the suite FILES can detect, and find copies and questions that were trained on."""
    from phi3_lora_qa.data.suite import read_suite
    from phi3_lora_qa.data.suite_check import check_suite
    from phi3_lora_qa.data.training_data import read_conversations

    if format_ not in FORMATS:
        raise InputError(f"unknown format {escape(format_)!r}; choose {' or '.join(FORMATS)}")
    if not (0.0 < discordant <= 1.0 and 0.0 < deviation < float("inf")):
        raise InputError(
            f"--discordant {discordant:g} and --deviation {deviation:g} assume the impossible; "
            "give a share above 0, at most 1, and a positive number"
        )
    assumed = Assumed(discordant=discordant, deviation=deviation)
    report = check_suite(
        read_suite(files, columns),
        read_conversations(train) if train else (),
        assumed,
        _counter(base) if base else None,
    )
    if format_ == "json":
        found = {
            "schema_version": SCHEMA_VERSION,
            "sound": report.sound,
            "assumed": asdict(assumed),
        }
        print(json.dumps(found | asdict(report), indent=2))
    else:
        print("\n".join(_lines(report, assumed)))
    sys.exit(0 if report.sound else 1)


def _counter(base: str) -> Callable[[str], int]:
    """Return what counts a text's tokens, from the base's files and without its model."""
    from tokenizers import Tokenizer

    from phi3_lora_qa.models.registry import resolve_base

    ref = resolve_base(base)
    file = ref.folder / "tokenizer.json" if ref.folder else None
    if file is None or not file.is_file():
        raise BaseModelError(
            f"the tokenizer of {escape(ref.name, 200)} is not on this machine as a "
            "tokenizer.json; fetch the base, or leave --base out"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises a bare Exception
        raise BaseModelError(
            f"cannot read {file}: {escape(str(error), 200)}; give a base with a tokenizer.json"
        ) from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _lines(report: "SuiteReport", assumed: Assumed) -> Iterator[str]:
    for group in report.groups:
        worth = f", worth {group.independent:.0f} independent ones" if group.clusters else ""
        held = f" in {group.clusters} clusters{worth}" if group.clusters else ""
        yield f"{escape(group.name, 80)}: {group.items} items{held}"
        if group.with_checks or group.with_choices:
            yield f"  {group.with_checks} with checks, {group.with_choices} with choices"
        yield f"  a share must change by {group.detectable_share:.1%} to be detected"
        yield f"  the loss must change by {group.detectable_loss:.3f} nats per token"
        prompt, reference = _shown(group.prompt_words), _shown(group.reference_words)
        yield f"  prompt {prompt} words, reference {reference}"
        if group.prompt_tokens and group.reference_tokens:
            yield (
                f"  prompt {_shown(group.prompt_tokens)} tokens, "
                f"reference {_shown(group.reference_tokens)}, without the chat template"
            )
    yield (
        "detected: by a one-sided test at 5 %, four times out of five, if base and tuned differ on "
        f"{assumed.discordant:.0%} of the items, and changes of loss deviate by "
        f"{assumed.deviation:g} nats per token"
    )
    for words, pairs in (
        ("that repeat another; take them out (exact copies count once)", report.duplicates),
        ("that nearly repeat another; reword or cluster them", report.near_duplicates),
        ("that were trained on; take them out of the suite", report.trained_on),
        ("that were nearly trained on; take them out of the suite", report.nearly_trained_on),
    ):
        yield from _found(words, pairs)
    for words, count in (
        ("were not compared with all others for near copies", report.not_compared),
        ("were not compared with all training rows", report.not_compared_with_training),
    ):
        if count:
            yield (
                f"not checked: {count} items {words}, as too many texts are too alike; "
                "check the suite in parts"
            )
    if report.sound:
        yield "nothing to mend"
    else:
        yield "mend the suite" if report.found else "nothing was found to mend, but not all checked"


def _found(words: str, pairs: "Sequence[Pair]") -> Iterator[str]:
    if not pairs:
        return
    yield f"items {words}: {len(pairs)}"
    for pair in pairs[:MOST_SHOWN]:
        yield f"  {escape(pair.item, 80)} is {pair.likeness:.0%} like {escape(pair.like, 80)}"
    if len(pairs) > MOST_SHOWN:
        yield f"  and {len(pairs) - MOST_SHOWN} more; --format json lists all"


def _shown(lengths: "Lengths") -> str:
    return f"{lengths.least} to {lengths.most} (median {lengths.median:g})"
