"""Replaces a model's layers by loralib's, over the same weights.

The weights stay the same parameters, and a newly adapted model computes what it computed before.
``merge_weights`` is off: otherwise loralib would add the delta to the weights at every ``eval()``
and subtract it at every ``train()``, with rounding errors each time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.conversion.fused_blocks import (
    Blocks,
    expand_mask,
    find_mask,
    phi3_blocks,
    require_used,
)
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.loralib_interop.loralib_config import (
    LayerSpec,
    LoralibClass,
    LoralibConfig,
    require_loralib,
)
from phi3_lora_qa.loralib_interop.loralib_state import mark_only_lora_as_trainable

if TYPE_CHECKING:
    from torch import nn


def adapt(model: "nn.Module", config: LoralibConfig) -> tuple[LayerSpec, ...]:
    """Adapt a model in place, and make only loralib's parameters trainable.

    Args:
        model: The model.
        config: How to adapt it.

    Returns:
        The adapted layers, in the model's order.

    Raises:
        InputError: As `plan_layers`.
        MissingDependencyError: loralib is not installed.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> [layer.kind for layer in adapt(model, LoralibConfig(rank=2, alpha=4, targets=("0",)))]
        ['Linear']
    """
    layers = plan_layers(model, config)
    replace_layers(model, layers)
    mark_only_lora_as_trainable(model, config.bias)
    return layers


def plan_layers(model: "nn.Module", config: LoralibConfig) -> tuple[LayerSpec, ...]:
    """Return which layers would be adapted and how, without changing the model.

    Args:
        model: The model.
        config: How it would be adapted.

    Returns:
        The layers, in the model's order.

    Raises:
        InputError: A target or mask matches nothing, or loralib does not support what a layer
            needs.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> config = LoralibConfig(rank=2, alpha=4, targets=("0",))
        >>> [layer.name for layer in plan_layers(model, config)]
        ['0']
    """
    model_config = getattr(model, "config", None)
    fused = phi3_blocks(model_config.to_dict()) if model_config is not None else {}
    modules = {name: module for name, module in model.named_modules() if name}
    unmatched = [t for t in config.targets if not any(matches_suffix(name, t) for name in modules)]
    if unmatched:
        raise InputError(
            f"a target matches no layer of the model: {escape(unmatched[0], 80)}; use one of "
            f"{', '.join(sorted({n.rpartition('.')[2] for n in modules if _is_leaf(modules[n])}))}"
        )
    chosen = [name for name in modules if any(matches_suffix(name, t) for t in config.targets)]
    require_used(config.masks, chosen)
    return tuple(_layer(name, modules[name], config, fused) for name in chosen)


def replace_layers(model: "nn.Module", layers: Sequence[LayerSpec]) -> None:
    """Replace layers of a model by newly initialized layers of loralib; the weights stay the same.

    Linear, MergedLinear and Conv2d start with B = 0; Embedding starts with A = 0 and a normal B.

    Args:
        model: The model, changed in place.
        layers: The layers to replace.

    Raises:
        InputError: A layer is not in the model, or has another type there.
        MissingDependencyError: loralib is not installed.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> replace_layers(model, [LayerSpec(name="0", kind="Linear", rank=2, alpha=4)])
        >>> tuple(model[0].lora_A.shape)
        (2, 4)
    """
    require_loralib()
    modules = dict(model.named_modules())
    for layer in layers:
        if layer.name not in modules:
            raise InputError(
                f"the model has no layer {escape(layer.name, 120)}; pass the model that the layers "
                "belong to"
            )
        kind = _class_for(layer.name, modules[layer.name], merged=bool(layer.mask))
        if kind != layer.kind:
            raise InputError(
                f"{escape(layer.name, 120)} can become a {kind}, not a {layer.kind}; "
                "pass the model that the layers belong to"
            )
    for layer in layers:
        parent, _, leaf = layer.name.rpartition(".")
        old = modules[layer.name]
        setattr(model.get_submodule(parent), leaf, _BUILDERS[layer.kind](layer, old))


def describe_layers(model: "nn.Module") -> tuple[LayerSpec, ...]:
    """Return the adapted layers of any model with loralib layers; layers of rank 0 are not adapted.

    Args:
        model: The model.

    Returns:
        The layers, in the model's order.

    Raises:
        InputError: A layer has a type or state that `check_model` reports.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> layers = adapt(model, LoralibConfig(rank=2, alpha=4, targets=("0",)))
        >>> describe_layers(model) == layers
        True
    """
    from phi3_lora_qa.loralib_interop.loralib_state import lora_modules

    return tuple(_described(name, module) for name, module in lora_modules(model).items())


def _layer(
    name: str, module: "nn.Module", config: LoralibConfig, fused: Mapping[str, Blocks]
) -> LayerSpec:
    leaf = name.rpartition(".")[2]
    chosen = find_mask(name, config.masks)
    blocks = fused.get(leaf, {})
    if chosen is None and blocks:
        chosen = dict.fromkeys(blocks, True)
    mask: tuple[bool, ...] = ()
    if chosen is not None:
        mask = expand_mask(chosen, blocks)
    kind = _class_for(name, module, merged=bool(mask))
    if kind == "MergedLinear":
        _require_fit(name, module, mask)
    return LayerSpec(
        name=name,
        kind=kind,
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout if kind in ("Linear", "MergedLinear") else 0.0,
        mask=mask,
        groups=getattr(module, "groups", 1),
    )


def _class_for(name: str, module: "nn.Module", *, merged: bool) -> LoralibClass:
    from torch import nn

    where = escape(name, 120)
    # Exact classes only: a subclass (a quantized layer, PEFT's, loralib's) computes differently.
    kind = type(module)
    if merged and kind is not nn.Linear:
        raise InputError(
            f"a mask applies only to linear layers: {where} is a {kind.__name__}; remove the mask"
        )
    if kind is nn.Linear:
        return "MergedLinear" if merged else "Linear"
    if kind is nn.Embedding and module.max_norm is None:
        return "Embedding"
    if kind is nn.Embedding:
        raise InputError(
            f"{where} has max_norm, with which loralib's Embedding rescales its own A at each "
            "lookup; remove the layer from the targets"
        )
    if kind is nn.Conv2d:
        height, width = module.kernel_size  # type: ignore[misc]
        if height != width:
            raise InputError(
                f"{where} has a kernel of {height} x {width}, and loralib supports only square "
                "kernels; remove the layer from the targets"
            )
        return "Conv2d"
    if kind in (nn.Conv1d, nn.Conv3d):
        raise InputError(
            f"{where} is a {kind.__name__}, whose factors loralib shapes for two dimensions, so it "
            "fails for kernels larger than 1; remove the layer from the targets, or use PEFT"
        )
    raise InputError(
        f"{where} is a {kind.__name__}, for which loralib has no layer; target Linear, Embedding "
        "or Conv2d layers"
    )


def _require_fit(name: str, module: "nn.Module", mask: tuple[bool, ...]) -> None:
    rows = module.out_features
    if rows % len(mask):  # type: ignore[operator]
        raise InputError(
            f"the {rows} rows of {escape(name, 120)} cannot be divided into {len(mask)} equal "
            "blocks; pass a mask whose length divides them"
        )


def _linear(layer: LayerSpec, old: Any) -> "nn.Module":
    import loralib
    import torch

    sizes = (old.in_features, old.out_features, layer.rank, layer.alpha, layer.dropout)
    options = {
        "bias": old.bias is not None, "dtype": old.weight.dtype, "merge_weights": False,
    }  # fmt: skip
    with torch.device("meta"):
        if layer.mask:
            new = loralib.MergedLinear(*sizes, enable_lora=list(layer.mask), **options)
        else:
            new = loralib.Linear(*sizes, **options)
    if layer.mask:
        rows = old.out_features // len(layer.mask)
        indices = torch.tensor(layer.mask).repeat_interleave(rows)
        new.lora_ind = indices.to(old.weight.device)
    _initialize_factors(new, old)
    new.weight, new.bias = old.weight, old.bias
    return new


def _embedding(layer: LayerSpec, old: Any) -> "nn.Module":
    import loralib
    import torch

    with torch.device("meta"):
        new = loralib.Embedding(
            old.num_embeddings,
            old.embedding_dim,
            layer.rank,
            layer.alpha,
            merge_weights=False,
            padding_idx=old.padding_idx,
            scale_grad_by_freq=old.scale_grad_by_freq,
            sparse=old.sparse,
            dtype=old.weight.dtype,
        )
    _initialize_factors(new, old)
    new.weight = old.weight
    return new


def _conv2d(layer: LayerSpec, old: Any) -> "nn.Module":
    import loralib
    import torch

    with torch.device("meta"):
        new = loralib.Conv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size[0],
            layer.rank,
            layer.alpha,
            merge_weights=False,
            groups=old.groups,
            dtype=old.weight.dtype,
        )
    _initialize_factors(new, old)
    new.conv = old
    return new


_BUILDERS: Mapping[str, Callable[[LayerSpec, Any], "nn.Module"]] = {
    "Linear": _linear,
    "MergedLinear": _linear,
    "Embedding": _embedding,
    "Conv2d": _conv2d,
}


def _initialize_factors(new: Any, old: Any) -> None:
    """Allocate the factors and let loralib initialize them.

    The layer was built on the meta device, so that a large weight is neither allocated nor drawn.
    Its weight is still on the meta device here, and loralib's initialization of it does nothing.
    """
    import torch
    from torch import nn

    for name in ("lora_A", "lora_B"):
        shape = getattr(new, name).shape
        empty = torch.empty(shape, dtype=old.weight.dtype, device=old.weight.device)
        setattr(new, name, nn.Parameter(empty))
    new.reset_parameters()
    if not isinstance(new.lora_dropout, nn.Module):
        new.lora_dropout = nn.Identity()  # instead of loralib's lambda, which cannot be pickled
    new.train(old.training)
    for parameter in old.parameters():
        parameter.requires_grad_(False)


def _described(name: str, module: Any) -> LayerSpec:
    kind = type(module).__name__
    if kind not in _BUILDERS or type(module).__module__ != "loralib.layers":
        raise InputError(
            f"{escape(name, 120)} is a {kind}, which cannot be saved or converted; "
            f"use loralib's {', '.join(_BUILDERS)}"
        )
    return LayerSpec(
        name=name,
        kind=kind,  # type: ignore[arg-type] # it is a key of _BUILDERS
        rank=module.r,
        alpha=module.lora_alpha,
        dropout=getattr(module.lora_dropout, "p", 0.0) if kind.endswith("Linear") else 0.0,
        mask=tuple(bool(on) for on in module.enable_lora) if kind == "MergedLinear" else (),
        groups=module.conv.groups if kind == "Conv2d" else 1,
    )


def _is_leaf(module: "nn.Module") -> bool:
    return next(module.children(), None) is None and hasattr(module, "weight")
