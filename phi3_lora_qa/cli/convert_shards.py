"""``phi3-lora-qa convert join-shards``: an adapter whose weights are in several files."""

from pathlib import Path

import click

from phi3_lora_qa.cli.path_types import PATH
from phi3_lora_qa.errors import escape


@click.command("join-shards")
@click.argument("adapter", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The adapter folder to write.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
def join_shards_command(adapter: Path, output: Path, force: bool) -> None:
    """Join the weights of ADAPTER, split into several files, to the one file that peft loads."""
    from phi3_lora_qa.adapter.folder import AdapterFolder
    from phi3_lora_qa.conversion.join_shards import join_shards
    from phi3_lora_qa.staged_output import staged_output

    source = AdapterFolder.open(adapter)
    with staged_output(output, force=force) as staging:
        folder = staging / output.name
        folder.mkdir()
        tensors = join_shards(source, folder)
    shown = escape(str(output), 1_000)
    click.echo(f"wrote adapter {shown}, {tensors} tensors in one file")
    click.echo(f"to gate it: pytest --phi3-adapter={shown}")
