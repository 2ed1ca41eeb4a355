"""Internal: the console script ``phi3-lora-qa``.

Each command parses its options, calls one function and prints the result.

Heavy modules are imported only by the commands that need them, so ``--help`` and ``lint`` are fast.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from phi3_lora_qa.cli import base, convert, convert_shards, suite
from phi3_lora_qa.cli.path_types import PATH
from phi3_lora_qa.errors import Phi3LoraQAError, escape, path_trouble, shortage
from phi3_lora_qa.exit_codes import BAD_INPUT, STOPPED
from phi3_lora_qa.extras import missing_module
from phi3_lora_qa.signals import EndSignals


class _OutputError(Phi3LoraQAError):
    """The output cannot be written, because its reader is gone or the disk is full."""


class _Commands(click.Group):
    """The commands; their output is flushed before they end."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options; ``--help`` prints, too."""
        with _flushed():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with _flushed():
            return super().invoke(ctx)


@contextmanager
def _flushed() -> Iterator[None]:
    """Flush the output; when a pipe closes, click would exit with 1, as for a rejected adapter."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:
            raise
        raise _OutputError(
            f"cannot write the output: {error.strerror}; write it to a file instead"
        ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="phi3-lora-qa")
def app() -> None:
    """Fine-tune Phi-3 with LoRA, and check that the adapter is safe to ship."""


convert.app.add_command(convert_shards.join_shards_command)
app.add_command(base.app)
app.add_command(convert.app)
app.add_command(suite.app)


@app.command()
@click.option(
    "--base", default="tiny", show_default=True, help="The base model: tiny, smollm2 or a folder."
)
@click.option(
    "--output",
    type=PATH,
    default="demo",
    show_default=True,
    help="The folder to write the results to.",
)
def demo(base: str, output: Path) -> None:
    """Train and gate an adapter, then gate a damaged copy: one PASS, one FAIL, two reports."""
    from phi3_lora_qa.cli.demo import demo_command

    sys.exit(demo_command(base, output))


@app.command()
@click.argument("config", type=PATH)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Override a value of CONFIG (repeatable).",
)
def train(config: Path, settings: tuple[str, ...]) -> None:
    """Fine-tune an adapter with the TOML file CONFIG, evaluate it, and save it with a manifest."""
    from phi3_lora_qa.cli.train import train_command

    train_command(config, list(settings))


@app.command()
@click.argument("adapter", type=PATH)
@click.option("--base", metavar="DIR_OR_ID", help="The base model of the adapter.")
@click.option("--any-base", is_flag=True, help="Accept a base that is not a Phi-3.")
@click.option(
    "--parent",
    type=PATH,
    metavar="DIR",
    help="The adapter that this one was trained from; one that equals it is rejected.",
)
@click.option(
    "--format", "format_", default="text", show_default=True, help="text, json, github or sarif."
)
@click.option(
    "--select", multiple=True, metavar="RULE", help="Run only this rule or family (repeatable)."
)
@click.option(
    "--ignore", multiple=True, metavar="RULE", help="Skip this rule, family or ALL (repeatable)."
)
@click.option(
    "--level",
    multiple=True,
    metavar="RULE=LEVEL",
    help="Set a rule's level: error, warning or info (repeatable).",
)
def lint(  # noqa: PLR0913, PLR0917 - click makes options of arguments
    adapter: Path,
    base: str | None,
    any_base: bool,
    parent: Path | None,
    format_: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    level: tuple[str, ...],
) -> None:
    """Check the files in the folder ADAPTER without torch and without running a model."""
    from phi3_lora_qa.cli.lint import LintOptions, lint_command

    options = LintOptions(
        base=base, select=select, ignore=ignore, levels=level, any_base=any_base, parent=parent
    )
    sys.exit(lint_command(adapter, options, format_))


@app.command("lint-files")
@click.argument("files", type=PATH, nargs=-1)
@click.option("--base", metavar="DIR_OR_ID", help="The base model of the adapters.")
@click.option("--any-base", is_flag=True, help="Accept a base that is not a Phi-3.")
@click.option(
    "--select", multiple=True, metavar="RULE", help="Run only this rule or family (repeatable)."
)
@click.option(
    "--ignore", multiple=True, metavar="RULE", help="Skip this rule, family or ALL (repeatable)."
)
def lint_files(
    files: tuple[Path, ...],
    base: str | None,
    any_base: bool,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
) -> None:
    """Lint each adapter folder that one of the FILES is in; for pre-commit."""
    from phi3_lora_qa.cli.lint import LintOptions
    from phi3_lora_qa.cli.lint_files import lint_files_command

    options = LintOptions(base=base, any_base=any_base, select=select, ignore=ignore)
    sys.exit(lint_files_command(files, options))


@app.command()
@click.argument("rule")
def explain(rule: str) -> None:
    """Explain RULE, or list the rules of a family: what is checked, why, and how to fix it."""
    from phi3_lora_qa.cli.lint import explain_command

    explain_command(rule)


@app.command()
@click.argument("record", type=PATH)
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="The page to write; by default report.html next to the record.",
)
def report(record: Path, output: Path | None) -> None:
    """Render the HTML report again from RECORD, a record.json or its folder."""
    from phi3_lora_qa.cli.report import report_command

    report_command(record, output)


def main() -> None:
    """Run the console script; an error is printed as one line, with exit status 2."""
    if sys.stdout is None:
        sys.exit(_fail("standard output is closed; redirect it to a file"))
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot encode must not cause exit status 1, a rejection.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signals = EndSignals()
    signals.catch()
    try:
        status: Any = _status()
    except SystemExit as ended:
        status = ended.code
    finally:
        signals.release()
    sys.exit(signals.status if signals.received else status)


def _status() -> int:
    """Run the command and return its exit status; 1 means rejected, and nothing else."""
    try:
        status = app(standalone_mode=False)
    except _OutputError as error:
        # Otherwise the interpreter flushes the rest when it exits, and fails again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(str(error))
    except Phi3LoraQAError as error:
        return _fail(str(error))
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except click.Abort:
        return STOPPED
    except Exception as error:
        return _fail(_unexpected(error))
    return status if isinstance(status, int) else 0


def _unexpected(error: Exception) -> str:
    if known := shortage(error) or path_trouble(error) or missing_module(error):
        return str(known)
    import traceback

    traceback.print_exc()
    return f"internal error in phi3-lora-qa ({type(error).__name__}); please report it"


def _fail(message: str) -> int:
    with suppress(OSError, AttributeError):  # stderr is closed or missing
        sys.stderr.write(f"phi3-lora-qa: error: {escape(message, 2_000)}\n")
    return BAD_INPUT
