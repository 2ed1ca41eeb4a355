"""The console script ``phi3-lora-qa``: each command parses, calls one thing and prints.

Nothing heavy is imported before a command needs it, so that ``--help`` and ``lint`` stay quick.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from phi3_lora_qa.cli import base
from phi3_lora_qa.errors import Phi3LoraQAError

BAD_INPUT = 2

app = typer.Typer(
    name="phi3-lora-qa",
    help="Fine-tune Phi-3 with LoRA, and decide whether the adapter may ship.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(base.app, name="base")


@app.command()
def demo(
    base: Annotated[str, typer.Option(help="tiny, smollm2, or a folder with a Phi-3.")] = "tiny",
    output: Annotated[Path, typer.Option(help="Where the demo puts what it makes.")] = Path("demo"),
) -> None:
    """Train an adapter, gate it, damage a copy and gate that: one PASS, one FAIL, two reports."""
    from phi3_lora_qa.cli.demo import demo_command

    raise typer.Exit(demo_command(base, output))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The TOML file that says what to train.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override one value of the file."),
    ] = None,
) -> None:
    """Fine-tune an adapter with LoRA or QLoRA, evaluate it, and save it with its manifest."""
    from phi3_lora_qa.cli.train import train_command

    train_command(config, set_ or [])


@app.command()
def lint(  # noqa: PLR0913, PLR0917 - typer makes options of arguments
    adapter: Annotated[Path, typer.Argument(help="The adapter's folder.")],
    base: Annotated[
        str | None, typer.Option(metavar="DIR_OR_ID", help="The base it belongs to.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="text, json, github or sarif.")] = "text",
    select: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Only these rules or families.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Leave these rules or families out.")
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE=LEVEL", help="Another level: error, warning or info."),
    ] = None,
) -> None:
    """Check an adapter's files, without torch and without running a model."""
    from phi3_lora_qa.cli.lint import Asked, lint_command

    asked = Asked(base=base, select=select, ignore=ignore, levels=level)
    raise typer.Exit(lint_command(adapter, asked, format_))


@app.command()
def explain(
    rule: Annotated[str, typer.Argument(help="A rule's id, as a finding shows it.")],
) -> None:
    """Say what a finding means, why it matters and how to mend it."""
    from phi3_lora_qa.cli.lint import explain_command

    explain_command(rule)


@app.command()
def report(
    record: Annotated[Path, typer.Argument(help="A record.json, or the folder that holds one.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The page's file.")] = None,
) -> None:
    """Render the HTML report again from its record."""
    from phi3_lora_qa.cli.report import report_command

    report_command(record, output)


def main() -> None:
    """Run the console script; an error made on purpose is one line and exit status 2."""
    try:
        app()
    except Phi3LoraQAError as error:
        print(f"phi3-lora-qa: error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
