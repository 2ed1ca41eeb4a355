"""Infers the layers of a loralib state from the base's shapes, without guessing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.base_modules import BaseModule, ModuleKind
from phi3_lora_qa.conversion.fused_blocks import Blocks, Mask, expand_mask, find_mask, require_used
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.loralib_interop.loralib_config import LayerSpec, LoralibClass

if TYPE_CHECKING:
    from torch import Tensor

_SAVE = "save loralib's lora_state_dict(model) of a model whose layers have the base's names"


def factor_pairs(tensors: "Mapping[str, Tensor]") -> "dict[str, tuple[Tensor, Tensor]]":
    """Return A and B by the layer's name.

    Raises:
        InputError: A tensor is not a factor (a bias, or a weight of the base), or A or B is
            missing.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, factor = name.rpartition(".")
        sound = tensor.ndim == 2 and tensor.is_floating_point()
        if factor not in ("lora_A", "lora_B") or not sound or not layer:
            raise InputError(
                f"not a loralib factor: {escape(name, 160)} {tuple(tensor.shape)} of "
                f"{tensor.dtype}, and a PEFT adapter contains only factors; save "
                'lora_state_dict(model, bias="none")'
            )
        found.setdefault(layer, {})[factor] = tensor
    for layer, factors in found.items():
        if len(factors) != 2 or factors["lora_A"].dtype != factors["lora_B"].dtype:
            raise InputError(f"{escape(layer, 160)} needs two factors of the same dtype; {_SAVE}")
    if not found:
        raise InputError(f"the checkpoint contains no factors; {_SAVE}")
    return {layer: (factors["lora_A"], factors["lora_B"]) for layer, factors in found.items()}


def infer_layers(
    tensors: "Mapping[str, Tensor]",
    base: Mapping[str, BaseModule],
    *,
    alpha: float,
    masks: Mapping[str, Mask],
    blocks: Mapping[str, Blocks],
) -> tuple[LayerSpec, ...]:
    """Return the layer that each pair of factors belongs to.

    The rank, the number k of enabled blocks and the number n of blocks follow from the shapes: A is
    (r·k, in) and B (out/n·k, r). The shapes do not say which k of the n blocks are enabled, unless
    all are.

    Args:
        tensors: loralib's state.
        base: The modules of the base by name.
        alpha: The alpha with which the layers were built; no tensor contains it.
        masks: The enabled blocks, by the last name of a layer or its full name.
        blocks: The named blocks of fused layers, by last name.

    Returns:
        One layer for each pair of factors.

    Raises:
        InputError: A shape fits no layer of the base, or a mask is missing or contradicts the
            shapes.

    Example:
        >>> import torch
        >>> from phi3_lora_qa.adapter.base_modules import BaseModule, ModuleKind
        >>> linear = BaseModule(name="o_proj", kind=ModuleKind.LINEAR, inputs=4, outputs=3)
        >>> tensors = {"o_proj.lora_A": torch.ones(2, 4), "o_proj.lora_B": torch.ones(3, 2)}
        >>> base = {"o_proj": linear}
        >>> [layer.rank for layer in infer_layers(tensors, base, alpha=4, masks={}, blocks={})]
        [2]
    """
    layers = []
    for name, (a, b) in factor_pairs(tensors).items():
        module = base.get(name)
        if module is None:
            raise InputError(f"the base has no layer {escape(name, 160)}; {_SAVE}")
        rank = int(b.shape[1])
        kind, mask = _shape(name, (tuple(a.shape), tuple(b.shape)), module)
        if kind == "MergedLinear":
            mask = _choose(name, mask, masks, blocks)
        layers.append(LayerSpec(name=name, kind=kind, rank=rank, alpha=alpha, mask=mask))
    require_used(masks, [layer.name for layer in layers])
    return tuple(layers)


def _shape(
    name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], module: BaseModule
) -> tuple[LoralibClass, tuple[bool, ...]]:
    """Return the class; for a MergedLinear also k times True and n - k times False."""
    (stacked, inputs), (rows, rank) = shapes
    outputs = module.outputs or 0
    fits = module.inputs == inputs and rank > 0 and rows > 0 and outputs > 0
    whole = fits and (stacked, rows) == (rank, outputs)
    if whole and module.kind is ModuleKind.EMBEDDING:
        return "Embedding", ()
    if whole and module.kind is ModuleKind.LINEAR:
        return "Linear", ()
    if fits and module.kind is ModuleKind.LINEAR:
        k = stacked // rank
        n = outputs * k // rows
        if k and stacked == rank * k and rows * n == outputs * k and n >= k:
            return "MergedLinear", (True,) * k + (False,) * (n - k)
    raise InputError(
        f"the factors of {escape(name, 160)} do not fit the base: {shapes[0]} and {shapes[1]} for "
        f"({module.outputs}, {module.inputs}); pass the base that it was trained on"
    )


def _choose(
    name: str, counts: tuple[bool, ...], masks: Mapping[str, Mask], blocks: Mapping[str, Blocks]
) -> tuple[bool, ...]:
    leaf, n, k = name.rpartition(".")[2], len(counts), sum(counts)
    chosen = find_mask(name, masks)
    if chosen is None:
        if n == k:
            return counts
        raise InputError(
            f"{escape(name, 160)} has factors for {k} of {n} blocks, and the checkpoint does not "
            f"say for which; pass --mask {leaf}=NAMES, such as --mask qkv_proj=q,v"
        )
    mask = expand_mask(chosen, blocks.get(leaf, {}), n)
    if (len(mask), sum(mask)) != (n, k):
        raise InputError(
            f"the mask of {escape(name, 160)} does not fit its factors: {sum(mask)} of {len(mask)} "
            f"blocks instead of {k} of {n}; fix --mask {leaf}=…"
        )
    return mask
