"""What a bare loralib state means, by the base's shapes; what they leave open is never guessed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from phi3_lora_qa.adapter.base_files import BaseModule, ModuleKind
from phi3_lora_qa.conversion.fused_blocks import Blocks, Mask, expand_mask, find_mask, require_used
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.loralib_interop.loralib_config import LayerSpec, LayerType

if TYPE_CHECKING:
    from torch import Tensor

_SAVE = "save loralib's lora_state_dict(model) of a model whose layers have the base's names"


def factor_pairs(tensors: "Mapping[str, Tensor]") -> "dict[str, tuple[Tensor, Tensor]]":
    """Return A and B by the layer's name.

    Raises:
        InputError: A tensor is no factor (a bias, or a weight of the base), or lacks the other one.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, factor = name.rpartition(".")
        sound = tensor.ndim == 2 and tensor.is_floating_point()
        if factor not in ("lora_A", "lora_B") or not sound or not layer:
            raise InputError(
                f"{escape(name, 160)} {tuple(tensor.shape)} of {tensor.dtype} is no factor of "
                "loralib's, and a PEFT adapter holds factors alone; save "
                'lora_state_dict(model, bias="none")'
            )
        found.setdefault(layer, {})[factor] = tensor
    for layer, factors in found.items():
        if len(factors) != 2 or factors["lora_A"].dtype != factors["lora_B"].dtype:
            raise InputError(f"{escape(layer, 160)} has no pair of factors of one dtype; {_SAVE}")
    if not found:
        raise InputError(f"the checkpoint holds no factors; {_SAVE}")
    return {layer: (factors["lora_A"], factors["lora_B"]) for layer, factors in found.items()}


def infer_layers(
    tensors: "Mapping[str, Tensor]",
    base: Mapping[str, BaseModule],
    *,
    alpha: float,
    masks: Mapping[str, Mask],
    blocks: Mapping[str, Blocks],
) -> tuple[LayerSpec, ...]:
    """Say what each pair of factors is.

    Rank, number of enabled blocks k and number of blocks n follow from the shapes: A is (r·k, in)
    and B (out/n·k, r). Which k of the n blocks are meant is in no shape, unless it is all of them.

    Args:
        tensors: loralib's state.
        base: The modules of the base.
        alpha: As the layers were built with; no tensor says it.
        masks: By the last name of a layer, or its full name.
        blocks: The named blocks of fused layers, by last name.

    Raises:
        InputError: A shape fits no layer of the base, or a mask is needed, or is not what the
            shapes say.
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
) -> tuple[LayerType, tuple[bool, ...]]:
    """Return the kind; for a MergedLinear also k times True and n - k times False."""
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
        f"the factors of {escape(name, 160)}, {shapes[0]} and {shapes[1]}, fit no loralib layer "
        f"over the base's ({module.outputs}, {module.inputs}); give the base it was trained on"
    )


def _choose(
    name: str, counts: tuple[bool, ...], masks: Mapping[str, Mask], blocks: Mapping[str, Blocks]
) -> tuple[bool, ...]:
    leaf, n, k = name.rpartition(".")[2], len(counts), sum(counts)
    given = find_mask(name, masks)
    if given is None:
        if n == k:
            return counts
        raise InputError(
            f"{escape(name, 160)} has factors for {k} of {n} blocks, and nothing says which; "
            f"give --mask {leaf}=NAMES, such as --mask qkv_proj=q,v"
        )
    mask = expand_mask(given, blocks.get(leaf, {}), n)
    if (len(mask), sum(mask)) != (n, k):
        raise InputError(
            f"the mask of {escape(name, 160)} chooses {sum(mask)} of {len(mask)} blocks, and its "
            f"factors are for {k} of {n}; correct --mask {leaf}=…"
        )
    return mask
