"""``phi3-lora-qa base``: list the known bases, fetch one, and show what a base contains."""

from collections import Counter
from pathlib import Path

import click

from phi3_lora_qa.errors import BaseModelError, escape


@click.group("base")
def app() -> None:
    """List the known base models, fetch one, or show one."""


@app.command("list")
def list_bases() -> None:
    """List the known base models and their folders on this machine."""
    from phi3_lora_qa.models.registry import find_folder, known_bases

    for known in known_bases():
        folder = find_folder(known)
        where = (
            escape(str(folder), 1_000)
            if folder
            else f"not on this machine; run: phi3-lora-qa base fetch {known.name}"
        )
        click.echo(f"{known.name:<20} {known.id:<36} {known.license:<10} {where}")


@app.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Fetch the known base model NAME, unless it is already on this machine."""
    from phi3_lora_qa.models import smollm2_build
    from phi3_lora_qa.models.base_download import download_base
    from phi3_lora_qa.models.registry import find_known, known_bases, resolve_base

    known = find_known(name)
    if known is None:
        names = ", ".join(known.name for known in known_bases())
        raise BaseModelError(f"unknown base: '{escape(name, 200)}'; use one of {names}")
    if known.source == "built":
        smollm2_build.fetch(lambda phase, *_: click.echo(escape(phase, 2_000), err=True))
    elif known.source == "hub":
        download_base(known.id)
    click.echo(escape(str(resolve_base(known.name).folder), 1_000))


@app.command()
@click.argument("base")
def info(base: str) -> None:
    """Show BASE, a known name, a hub id or a folder: size, dtype, fingerprint and findings."""
    from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
    from phi3_lora_qa.adapter.base_checks.base_view import BaseView
    from phi3_lora_qa.adapter.base_checks.check_base import check_base
    from phi3_lora_qa.cli.lint_text import finding_lines
    from phi3_lora_qa.models.loading import weight_files
    from phi3_lora_qa.models.registry import (
        base_fingerprint,
        find_known,
        read_base_config,
        resolve_base,
    )

    ref = resolve_base(base)
    if ref.folder is None:
        raise BaseModelError(
            f"the base {ref.name} is not on this machine; run: phi3-lora-qa base fetch {ref.name}"
        )
    report = check_base(BaseView(ref.folder, id=ref.id), uses=[BaseUse.LOADING, BaseUse.ANSWERS])
    if not report.is_readable:
        report.require_usable()
    config, known = read_base_config(ref), find_known(ref.id)
    sizes, dtypes = _weights(weight_files(ref.folder))
    bytes_on_disk = sum(f.stat().st_size for f in ref.folder.rglob("*") if f.is_file())
    rows = {
        "id": ref.id,
        "folder": ref.folder,
        "about": known.about if known else "not a known base",
        "license": known.license if known else "see the folder",
        "layers": config.get("num_hidden_layers"),
        "hidden size": config.get("hidden_size"),
        "heads": f"{config.get('num_attention_heads')} "
        f"({config.get('num_key_value_heads') or config.get('num_attention_heads')} key-value)",
        "vocabulary": config.get("vocab_size"),
        "parameters": f"{sizes:,}",
        "dtype on disk": dtypes,
        "size on disk": f"{bytes_on_disk / 1e6:,.1f} MB",
        "fingerprint": base_fingerprint(ref),
    }
    if known and (chat := known.chat):
        rows["published as"] = (
            f"{chat.user}…{chat.end}{chat.assistant}…{chat.end}, "
            f"stop tokens {', '.join(map(str, chat.stop_tokens))}"
        )
    for label, value in rows.items():
        click.echo(f"{label:<14} {escape(str(value))}")
    if not report.findings:
        click.echo(f"{'findings':<14} none")
    for line in finding_lines(report.findings):
        click.echo(line)
    report.require_usable()


def _weights(files: tuple[Path, ...]) -> tuple[int, str]:
    """Return the number of saved parameters and their dtypes, from the headers only."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    parameters, dtypes = 0, Counter[str]()
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - the handle is not a mapping
                    part = file.get_slice(name)
                    parameters += prod(part.get_shape())
                    dtypes[part.get_dtype()] += 1
        except (OSError, SafetensorError) as error:
            raise BaseModelError(
                f"cannot read {path}: {escape(str(error))}; download the base again"
            ) from error
    return parameters, ", ".join(dtype for dtype, _ in dtypes.most_common())
