"""``phi3-lora-qa convert``: exact conversions of loralib checkpoints and split adapters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phi3_lora_qa.cli.path_types import PATH
from phi3_lora_qa.errors import InputError, escape

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.base_files import BaseFiles
    from phi3_lora_qa.conversion.fused_blocks import Blocks, Mask

_force = click.option("--force", is_flag=True, help="Replace an existing output.")
_mask = click.option(
    "--mask",
    "masks",
    multiple=True,
    metavar="LAYER=BLOCKS",
    help="The enabled blocks of a layer: names (qkv_proj=q,v), or 0 and 1 (qkv_proj=1,0,1).",
)


@click.group("convert")
def app() -> None:
    """Convert LoRA files without loss: loralib to and from PEFT, and split to fused projections."""


@app.command("loralib-to-peft")
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The adapter folder to write.")
@click.option(
    "--base", required=True, metavar="DIR_OR_ID", help="The base model that it was trained on."
)
@click.option("--alpha", type=float, help="lora_alpha, if the checkpoint has no description.")
@_mask
@click.option("--allow-pickle", is_flag=True, help="Read a torch.save file (tensors only).")
@_force
def loralib_to_peft(  # noqa: PLR0913, PLR0917 - click makes options of arguments
    checkpoint: Path,
    output: Path,
    base: str,
    alpha: float | None,
    masks: tuple[str, ...],
    allow_pickle: bool,
    force: bool,
) -> None:
    """Convert CHECKPOINT, a loralib state dict, to a PEFT adapter with the same deltas."""
    from dataclasses import replace

    from phi3_lora_qa.conversion.fused_blocks import phi3_blocks
    from phi3_lora_qa.conversion.peft_adapter import require_fit, write_adapter
    from phi3_lora_qa.loralib_interop import infer_layers, read_checkpoint, to_peft
    from phi3_lora_qa.staged_output import staged_output

    identity, files = _open_base(base)
    loaded = read_checkpoint(checkpoint, allow_pickle=allow_pickle)
    if loaded.layers is None:
        if alpha is None:
            raise InputError(
                f"{escape(str(checkpoint))} has no description, so alpha is unknown; "
                "pass the --alpha with which the layers were built (loralib's default is 1)"
            )
        blocks = phi3_blocks(files.config)
        parsed = parse_masks(masks, blocks)
        layers = infer_layers(
            loaded.tensors, files.modules, alpha=alpha, masks=parsed, blocks=blocks
        )
        loaded = replace(loaded, layers=layers)
    elif alpha is not None or masks:
        raise InputError(
            f"the description of {escape(str(checkpoint))} already contains alpha and masks; "
            "remove --alpha and --mask, or move the description away"
        )
    adapter = to_peft(loaded, identity)
    require_fit(adapter, files.modules)
    with staged_output(output, force=force) as staging:
        (staging / output.name).mkdir()
        write_adapter(staging / output.name, adapter, files.modules)
    _print_adapter(output, len(adapter.modules))


@app.command("peft-to-loralib")
@click.argument("adapter", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The .safetensors file to write.")
@click.option("--base", metavar="DIR_OR_ID", help="Its base model, needed if a mask names blocks.")
@_mask
@_force
def peft_to_loralib(
    adapter: Path, output: Path, base: str | None, masks: tuple[str, ...], force: bool
) -> None:
    """Convert ADAPTER, a PEFT folder, to a loralib checkpoint with the same deltas."""
    from phi3_lora_qa.conversion.fused_blocks import phi3_blocks
    from phi3_lora_qa.conversion.peft_adapter import read_adapter
    from phi3_lora_qa.loralib_interop import from_peft, write_checkpoint
    from phi3_lora_qa.loralib_interop.loralib_checkpoint import description_path
    from phi3_lora_qa.staged_output import staged_output

    blocks = phi3_blocks(_open_base(base)[1].config) if base else {}
    checkpoint = from_peft(read_adapter(adapter), parse_masks(masks, blocks), blocks)
    with staged_output(output, description_path(output), force=force) as staging:
        write_checkpoint(staging / output.name, checkpoint)
    description = description_path(output)
    click.echo(escape(f"wrote checkpoint {output} and its description {description}", 2_000))


@app.command("fuse")
@click.argument("adapter", type=PATH)
@click.option("--base", required=True, metavar="DIR_OR_ID", help="A Phi-3 with fused layers.")
@click.option(
    "-o", "--output", type=PATH, required=True, help="The folder to write the fused adapter to."
)
@_force
def fuse(adapter: Path, base: str, output: Path, force: bool) -> None:
    """Convert ADAPTER from split projections (q, k, v, gate, up) to qkv_proj and gate_up_proj."""
    import shutil
    from dataclasses import replace

    from phi3_lora_qa.adapter.folder import TOKENIZER_FILES, AdapterFolder
    from phi3_lora_qa.conversion.fused_blocks import phi3_layouts
    from phi3_lora_qa.conversion.peft_adapter import read_adapter, require_fit, write_adapter
    from phi3_lora_qa.conversion.split_to_fused import fuse_adapter
    from phi3_lora_qa.staged_output import staged_output

    identity, files = _open_base(base)
    fused = replace(fuse_adapter(read_adapter(adapter), phi3_layouts(files.config)), base=identity)
    require_fit(fused, files.modules)
    source = AdapterFolder.open(adapter)
    with staged_output(output, force=force) as staging:
        folder = staging / output.name
        folder.mkdir()
        write_adapter(folder, fused, files.modules)
        for name in filter(source.file, TOKENIZER_FILES):
            with source.open_file(name) as content, (folder / name).open("wb") as copy:
                shutil.copyfileobj(content, copy)
    _print_adapter(output, len(fused.modules))


def parse_masks(texts: Sequence[str], blocks: Mapping[str, "Blocks"]) -> "dict[str, Mask]":
    """Parse ``LAYER=BLOCKS``: names of blocks, or 0 and 1 for each equal block, with commas.

    Raises:
        InputError: A text has neither form.
    """
    masks: dict[str, Mask] = {}
    for text in texts:
        layer, separator, value = text.partition("=")
        parts = [part.strip() for part in value.split(",")]
        if not layer or not separator or not all(parts) or layer in masks:
            raise InputError(
                f"invalid or repeated --mask: '{escape(text, 80)}'; "
                "pass one LAYER=BLOCKS for each layer, such as qkv_proj=q,v or qkv_proj=1,0,1"
            )
        if set(parts) <= {"0", "1"}:
            masks[layer] = [part == "1" for part in parts]
        else:
            known = blocks.get(layer.rpartition(".")[2], {})
            if not known:
                raise InputError(
                    f"--mask '{escape(text, 80)}': the names of this layer's blocks are unknown; "
                    "pass --base with its Phi-3, or write the mask as 0 and 1"
                )
            masks[layer] = {name: name in parts for name in known} | {
                name: True for name in parts if name not in known
            }
    return masks


def _open_base(reference: str) -> "tuple[str, BaseFiles]":
    from phi3_lora_qa.adapter.base_files import BaseFiles
    from phi3_lora_qa.models.hub_base import open_hub_base
    from phi3_lora_qa.models.registry import resolve_base

    ref = resolve_base(reference)
    return ref.id, open_hub_base(ref.id) if ref.folder is None else BaseFiles.open(ref.folder)


def _print_adapter(output: Path, modules: int) -> None:
    shown = escape(str(output), 1_000)
    click.echo(f"wrote adapter {shown}, {modules} modules")
    click.echo(f"to gate it: pytest --phi3-adapter={shown}")
