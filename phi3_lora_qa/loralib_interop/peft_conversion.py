"""loralib's factors as PEFT's and back: values are moved, none is changed.

Where loralib stacks k pairs of rank r in one layer, PEFT's pair has rank R = r·k and B has zeros
between the blocks. Its alpha' is chosen so that alpha' / R == alpha / r exactly.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from phi3_lora_qa.conversion.fused_blocks import Blocks, Mask, expand_mask, find_mask, require_used
from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule, exact_alpha
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.lora.layouts import merged_linear
from phi3_lora_qa.loralib_interop.layer_inference import factor_pairs
from phi3_lora_qa.loralib_interop.loralib_checkpoint import Checkpoint
from phi3_lora_qa.loralib_interop.loralib_config import LayerSpec, LoralibClass

if TYPE_CHECKING:
    from torch import Tensor


def to_peft(checkpoint: Checkpoint, base: str) -> PeftAdapter:
    """Convert a loralib checkpoint to a PEFT adapter with the same deltas.

    Args:
        checkpoint: A checkpoint with its layers.
        base: base_model_name_or_path for the adapter.

    Returns:
        The adapter.

    Raises:
        InputError: Factors and description do not match, or a layer has no PEFT counterpart.

    Example:
        >>> import torch
        >>> tensors = {"o_proj.lora_A": torch.ones(2, 4), "o_proj.lora_B": torch.ones(3, 2)}
        >>> layers = (LayerSpec(name="o_proj", kind="Linear", rank=2, alpha=4),)
        >>> to_peft(Checkpoint(tensors=tensors, layers=layers), "").modules[0].scaling
        2.0
    """
    factors = factor_pairs(checkpoint.tensors)
    layers = {layer.name: layer for layer in checkpoint.layers or ()}
    if layers.keys() != factors.keys():
        name = sorted(layers.keys() ^ factors.keys())[0]
        where = "the description" if name in layers else "the checkpoint"
        raise InputError(
            f"checkpoint and description do not match: {escape(name, 160)} is only in {where}; "
            "use the two files that were written together"
        )
    dropouts = {layer.dropout for layer in layers.values()}
    modules = tuple(_to_module(layers[name], a, b) for name, (a, b) in factors.items())
    return PeftAdapter(modules=modules, base=base, dropout=max(dropouts))


def from_peft(
    adapter: PeftAdapter, masks: Mapping[str, Mask], blocks: Mapping[str, Blocks]
) -> Checkpoint:
    """Convert a PEFT adapter to a loralib checkpoint with the same deltas.

    Args:
        adapter: A plain LoRA adapter.
        masks: The enabled blocks of layers that become a MergedLinear, by last or full name; their
            B must be zero outside the enabled blocks. Every other linear layer becomes a Linear.
        blocks: The named blocks of fused layers, by last name.

    Returns:
        The checkpoint, with its layers.

    Raises:
        InputError: A layer has no loralib counterpart: B is not zero where the mask requires it, or
            the factors of a convolution do not have loralib's form.

    Example:
        >>> import torch
        >>> from phi3_lora_qa.conversion import PeftAdapter, PeftModule
        >>> module = PeftModule(name="o_proj", A=torch.ones(2, 4), B=torch.ones(3, 2), scaling=2.0)
        >>> checkpoint = from_peft(PeftAdapter(modules=(module,), base=""), {}, {})
        >>> sorted(checkpoint.tensors), checkpoint.layers[0].alpha
        (['o_proj.lora_A', 'o_proj.lora_B'], 4)
    """
    require_used(masks, [module.name for module in adapter.modules])
    tensors: dict[str, Tensor] = {}
    layers = []
    for module in adapter.modules:
        chosen = find_mask(module.name, masks)
        mask = () if chosen is None else expand_mask(chosen, blocks.get(module.leaf, {}))
        layer, a, b = _from_module(module, mask, adapter.dropout)
        layers.append(layer)
        tensors[f"{module.name}.lora_A"], tensors[f"{module.name}.lora_B"] = a, b
    return Checkpoint(tensors=tensors, layers=tuple(layers))


def _to_module(layer: LayerSpec, a: "Tensor", b: "Tensor") -> PeftModule:
    rank, k = layer.rank, layer.enabled
    size = a.shape[0] // rank if layer.kind == "Conv2d" else 1
    if a.shape[0] != rank * k * size or b.shape[1] != rank * size or b.shape[0] % (k * size):
        raise InputError(
            f"the factors of {escape(layer.name, 160)} do not fit a {layer.kind} of rank {rank}: "
            f"{tuple(a.shape)} and {tuple(b.shape)}; use the two files that were written together"
        )
    if layer.kind == "MergedLinear":
        b = _dense(layer, a, b)
    elif layer.kind == "Conv2d":
        a, b = _to_conv(layer, a, b, size)
    return PeftModule(
        name=layer.name, A=a, B=b, scaling=layer.scaling, is_embedding=layer.kind == "Embedding"
    )


def _dense(layer: LayerSpec, a: "Tensor", b: "Tensor") -> "Tensor":
    import torch

    A, B = (factor.detach().cpu().double().numpy() for factor in (a, b))
    dense = merged_linear(A, B, layer.scaling, layer.mask).B
    return torch.from_numpy(dense).to(b.dtype)  # exact: the values came from this dtype


def _to_conv(layer: LayerSpec, a: "Tensor", b: "Tensor", size: int) -> "tuple[Tensor, Tensor]":
    """Return PEFT's pair, of rank r·size², for loralib's delta (B·A).view(out, in, size, size).

    Row o·size + h of B·A is the h-th of ``size`` equal slices of output channel o's kernel. PEFT's
    A therefore has A once for each slice, with zeros at the others, and PEFT's B has those rows of
    B concatenated.
    """
    import torch

    if layer.groups != 1:
        raise InputError(
            f"cannot convert {escape(layer.name, 160)}: with groups PEFT arranges the factors of a "
            "convolution differently and cannot merge them; do not adapt this layer"
        )
    wide = torch.block_diag(*[a] * size)
    channels = a.shape[1] // size
    stacked = b.reshape(b.shape[0] // size, -1)
    return wide.reshape(-1, channels, size, size), stacked[:, :, None, None].clone()


def _from_module(
    module: PeftModule, mask: Sequence[bool], dropout: float
) -> "tuple[LayerSpec, Tensor, Tensor]":
    a, b, rank = module.A, module.B, module.rank
    linear = not module.is_embedding and a.ndim == 2
    if mask and not linear:
        raise InputError(
            f"a mask applies only to linear layers: {escape(module.name, 160)} is not one; "
            "remove the mask"
        )
    if mask:
        rank, b = _compact(module, mask)
    elif a.ndim == 4:
        rank, a, b = _from_conv(module)
    kind: LoralibClass = "MergedLinear" if mask else "Linear"
    if not linear:
        kind = "Embedding" if module.is_embedding else "Conv2d"
    layer = LayerSpec(
        name=module.name,
        kind=kind,
        rank=rank,
        alpha=exact_alpha(module.scaling, rank, module.name),
        dropout=dropout if linear else 0.0,
        mask=tuple(mask),
    )
    return layer, a, b


def _compact(module: PeftModule, mask: Sequence[bool]) -> "tuple[int, Tensor]":
    """Return the rank of one block, and B without the zeros between the blocks."""
    import torch

    shown, n, k = escape(module.name, 160), len(mask), sum(mask)
    rows = module.B.shape[0]
    if module.rank % k or rows % n:
        raise InputError(
            f"{shown}: rank {module.rank} and {rows} rows cannot be divided into {k} pairs over "
            f"{n} equal blocks; fix the mask"
        )
    rank, height = module.rank // k, rows // n
    kept = torch.zeros_like(module.B, dtype=torch.bool)
    enabled = [block for block, on in enumerate(mask) if on]
    for pair, block in enumerate(enabled):
        kept[block * height : (block + 1) * height, pair * rank : (pair + 1) * rank] = True
    if module.B[~kept].any():
        raise InputError(
            f"{shown}: B is not zero outside the enabled blocks, so a MergedLinear cannot "
            "represent it; convert without a mask, to a Linear with the same delta"
        )
    return rank, module.B[kept].reshape(k * height, rank)


def _from_conv(module: PeftModule) -> "tuple[int, Tensor, Tensor]":
    """Invert `_to_conv`: A must be one matrix repeated along the diagonal."""
    import torch

    size, channels = module.A.shape[2], module.A.shape[1]
    if module.A.shape[2] == module.A.shape[3] and module.rank % size**2 == 0:
        wide = module.A.reshape(module.rank, -1)
        a = wide[: module.rank // size, : channels * size]
        if torch.equal(torch.block_diag(*[a] * size), wide):
            b = module.B.reshape(-1, module.rank // size)
            return module.rank // size**2, a.clone(), b.clone()
    raise InputError(
        f"cannot convert {escape(module.name, 160)}: loralib factorizes the kernel of a "
        "convolution differently, and these factors do not have its form; do not adapt this layer"
    )
