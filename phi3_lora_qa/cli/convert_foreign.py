"""``convert fuse`` and ``mlx-``, ``kohya-`` and ``torchtune-to-peft``: other programs' adapters."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phi3_lora_qa.cli.converted_adapter import (
    base_option,
    force_option,
    open_base,
    output_option,
    write_converted,
)
from phi3_lora_qa.cli.path_types import PATH

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.base_files import BaseFiles
    from phi3_lora_qa.conversion.peft_adapter import PeftAdapter


@click.command("fuse")
@click.argument("adapter", type=PATH)
@click.option("--base", required=True, metavar="DIR_OR_ID", help="A Phi-3 with fused layers.")
@output_option
@force_option
def fuse(adapter: Path, base: str, output: Path, force: bool) -> None:
    """Convert ADAPTER from split projections (q, k, v, gate, up) to qkv_proj and gate_up_proj."""
    from phi3_lora_qa.adapter.folder import AdapterFolder
    from phi3_lora_qa.conversion.equal_ranks import equalize_ranks
    from phi3_lora_qa.conversion.fused_blocks import phi3_layouts
    from phi3_lora_qa.conversion.peft_adapter import read_adapter
    from phi3_lora_qa.conversion.split_to_fused import fuse_adapter

    identity, files = open_base(base)
    fused = equalize_ranks(fuse_adapter(read_adapter(adapter), phi3_layouts(files.config)))
    fitted = _fitted(fused, identity, files)
    write_converted(
        fitted, files, output, base=base, force=force, source=AdapterFolder.open(adapter)
    )


@click.command("mlx-to-peft")
@click.argument("folder", type=PATH)
@output_option
@base_option
@click.option("--scale", type=float, help="The scale, if the config has none or an unclear one.")
@force_option
def mlx_to_peft(folder: Path, output: Path, base: str, scale: float | None, force: bool) -> None:
    """Convert FOLDER, an adapter of mlx-lm, to a PEFT adapter with the same deltas."""
    from phi3_lora_qa.adapter.folder import AdapterFolder
    from phi3_lora_qa.conversion.mlx_adapter import read_mlx_adapter

    identity, files = open_base(base)
    adapter = _fitted(read_mlx_adapter(folder, files, scale), identity, files)
    write_converted(
        adapter, files, output, base=base, force=force, source=AdapterFolder.open(folder)
    )


@click.command("kohya-to-peft")
@click.argument("file", type=PATH)
@output_option
@base_option
@force_option
def kohya_to_peft(file: Path, output: Path, base: str, force: bool) -> None:
    """Convert FILE, in the format of kohya's sd-scripts, to a PEFT adapter with the same deltas."""
    from phi3_lora_qa.conversion.kohya_adapter import read_kohya_file

    identity, files = open_base(base)
    adapter = _fitted(read_kohya_file(file, files), identity, files)
    write_converted(adapter, files, output, base=base, force=force)


@click.command("torchtune-to-peft")
@click.argument("file", type=PATH)
@output_option
@base_option
@click.option("--alpha", type=float, required=True, help="lora_alpha of the recipe.")
@click.option("--allow-pickle", is_flag=True, help="Read a torch.save file (tensors only).")
@force_option
def torchtune_to_peft(  # noqa: PLR0913, PLR0917 - click makes options of arguments
    file: Path, output: Path, base: str, alpha: float, allow_pickle: bool, force: bool
) -> None:
    """Convert FILE, torchtune's adapter of a Phi-3, to a PEFT adapter with the same deltas."""
    from phi3_lora_qa.conversion.read_tensors import read_file_tensors
    from phi3_lora_qa.conversion.torchtune_adapter import from_torchtune

    identity, files = open_base(base)
    tensors = read_file_tensors(file, allow_pickle=allow_pickle)
    adapter = _fitted(from_torchtune(tensors, files, alpha=alpha), identity, files)
    write_converted(adapter, files, output, base=base, force=force)


def _fitted(adapter: "PeftAdapter", identity: str, files: "BaseFiles") -> "PeftAdapter":
    """Return the adapter with the base's modules and a public name of the base."""
    from dataclasses import replace

    from phi3_lora_qa.conversion.base_name import public_base_name
    from phi3_lora_qa.conversion.fit_to_base import fit_to_base

    named = replace(adapter, base=public_base_name(identity, files, adapter.base))
    return fit_to_base(named, files)
