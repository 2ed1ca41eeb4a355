"""What the commands that write a converted adapter share: options, the base, and the output."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phi3_lora_qa.cli.gate_command import gate_command
from phi3_lora_qa.cli.path_types import PATH
from phi3_lora_qa.errors import escape

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.base_files import BaseFiles
    from phi3_lora_qa.adapter.folder import AdapterFolder
    from phi3_lora_qa.conversion.peft_adapter import PeftAdapter

force_option = click.option("--force", is_flag=True, help="Replace an existing output.")
output_option = click.option(
    "-o", "--output", type=PATH, required=True, help="The adapter folder to write."
)
base_option = click.option(
    "--base", required=True, metavar="DIR_OR_ID", help="The base model that it was trained on."
)


def open_base(reference: str) -> "tuple[str, BaseFiles]":
    """Return the id and the files of a base."""
    from phi3_lora_qa.adapter.base_files import BaseFiles
    from phi3_lora_qa.models.hub_base import open_hub_base
    from phi3_lora_qa.models.registry import resolve_base

    ref = resolve_base(reference)
    return ref.id, open_hub_base(ref.id) if ref.folder is None else BaseFiles.open(ref.folder)


def write_converted(  # noqa: PLR0913 - callers name the last three
    adapter: "PeftAdapter",
    files: "BaseFiles",
    output: Path,
    *,
    base: str,
    force: bool,
    source: "AdapterFolder | None" = None,
) -> None:
    """Write an adapter, and what its source ships with it, completely or not at all; report it."""
    from phi3_lora_qa.conversion.other_files import copy_other_files
    from phi3_lora_qa.conversion.peft_adapter import write_adapter
    from phi3_lora_qa.staged_output import staged_output

    with staged_output(output, force=force) as staging:
        folder = staging / output.name
        folder.mkdir()
        write_adapter(folder, adapter, files.modules)
        if source is not None:
            copy_other_files(source, folder)
    shown = escape(str(output), 1_000)
    click.echo(f"wrote adapter {shown}, {len(adapter.modules)} modules")
    command = gate_command(output, base, configured=adapter.base)
    click.echo(f"to gate it: {command}")
