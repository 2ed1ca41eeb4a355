"""``phi3-lora-qa convert``: exact conversions; here those of loralib's checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phi3_lora_qa.cli.convert_foreign import fuse, kohya_to_peft, mlx_to_peft, torchtune_to_peft
from phi3_lora_qa.cli.converted_adapter import (
    base_option,
    force_option,
    open_base,
    output_option,
    write_converted,
)
from phi3_lora_qa.cli.path_types import PATH
from phi3_lora_qa.errors import InputError, escape

if TYPE_CHECKING:
    from phi3_lora_qa.conversion.fused_blocks import Blocks, Mask

_mask = click.option(
    "--mask",
    "masks",
    multiple=True,
    metavar="LAYER=BLOCKS",
    help="The enabled blocks of a layer: names (qkv_proj=q,v), or 0 and 1 (qkv_proj=1,0,1).",
)


@click.group("convert")
def app() -> None:
    """Convert LoRA files of other programs to PEFT without loss, and split to fused projections."""


app.add_command(fuse)
app.add_command(mlx_to_peft)
app.add_command(kohya_to_peft)
app.add_command(torchtune_to_peft)


@app.command("loralib-to-peft")
@click.argument("checkpoint", type=PATH)
@output_option
@base_option
@click.option("--alpha", type=float, help="lora_alpha, if the checkpoint has no description.")
@_mask
@click.option("--allow-pickle", is_flag=True, help="Read a torch.save file (tensors only).")
@force_option
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

    from phi3_lora_qa.conversion.base_name import public_base_name
    from phi3_lora_qa.conversion.fused_blocks import phi3_blocks
    from phi3_lora_qa.conversion.peft_adapter import require_fit
    from phi3_lora_qa.loralib_interop import infer_layers, read_checkpoint, to_peft

    identity, files = open_base(base)
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
    adapter = to_peft(loaded, public_base_name(identity, files))
    require_fit(adapter, files.modules)
    write_converted(adapter, files, output, base=base, force=force)


@app.command("peft-to-loralib")
@click.argument("adapter", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The .safetensors file to write.")
@click.option("--base", metavar="DIR_OR_ID", help="Its base model, needed if a mask names blocks.")
@_mask
@force_option
def peft_to_loralib(
    adapter: Path, output: Path, base: str | None, masks: tuple[str, ...], force: bool
) -> None:
    """Convert ADAPTER, a PEFT folder, to a loralib checkpoint with the same deltas."""
    from phi3_lora_qa.conversion.fused_blocks import phi3_blocks
    from phi3_lora_qa.conversion.peft_adapter import read_adapter
    from phi3_lora_qa.loralib_interop import from_peft, write_checkpoint
    from phi3_lora_qa.loralib_interop.loralib_checkpoint import description_path
    from phi3_lora_qa.staged_output import staged_output

    blocks = phi3_blocks(open_base(base)[1].config) if base else {}
    checkpoint = from_peft(read_adapter(adapter), parse_masks(masks, blocks), blocks)
    with staged_output(output, description_path(output), force=force) as staging:
        write_checkpoint(staging / output.name, checkpoint)
    description = description_path(output)
    click.echo(escape(f"wrote checkpoint {output} and its description {description}", 2_000))


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
