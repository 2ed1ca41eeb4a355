"""Put loralib's layers in the place of a model's own, over the same weights.

The weights stay the very same parameters, and a model that was just adapted computes what it
computed before. ``merge_weights`` is off: loralib would add the delta to the weights at every
``eval()`` and subtract it at every ``train()``, and leave rounding errors in them each time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.module_names import matches_suffix
from phi3_lora_qa.conversion.fused_blocks import (
    Blocks,
    expand,
    mask_of,
    phi3_blocks,
    require_used,
)
from phi3_lora_qa.errors import InputError, escape
from phi3_lora_qa.loralib_interop.loralib_config import Kind, Layer, LoralibConfig, require_loralib
from phi3_lora_qa.loralib_interop.loralib_state import mark_only_lora_as_trainable

if TYPE_CHECKING:
    from torch import nn


def adapt(model: "nn.Module", config: LoralibConfig) -> tuple[Layer, ...]:
    """Adapt a model in place, and leave only what loralib trains trainable.

    Returns:
        What was adapted, in the model's order.

    Raises:
        InputError: As `plan`.
        MissingDependencyError: loralib is not installed.
    """
    layers = plan(model, config)
    replace(model, layers)
    mark_only_lora_as_trainable(model, config.bias)
    return layers


def plan(model: "nn.Module", config: LoralibConfig) -> tuple[Layer, ...]:
    """Say which layers would be adapted and how, without touching the model.

    Raises:
        InputError: A target or mask matches nothing, or loralib cannot do what a layer needs.
    """
    settings = getattr(model, "config", None)
    fused = phi3_blocks(settings.to_dict()) if settings is not None else {}
    modules = {name: module for name, module in model.named_modules() if name}
    missed = [t for t in config.targets if not any(matches_suffix(name, t) for name in modules)]
    if missed:
        raise InputError(
            f"no layer of the model is called {escape(missed[0], 80)}; name one of "
            f"{', '.join(sorted({n.rpartition('.')[2] for n in modules if _is_leaf(modules[n])}))}"
        )
    chosen = [name for name in modules if any(matches_suffix(name, t) for t in config.targets)]
    require_used(config.masks, chosen)
    return tuple(_layer(name, modules[name], config, fused) for name in chosen)


def replace(model: "nn.Module", layers: Sequence[Layer]) -> None:
    """Put loralib's layers into a model, freshly initialised by loralib, weights untouched.

    Linear, MergedLinear and Conv2d begin with B = 0; Embedding begins with A = 0 and B normal.

    Raises:
        InputError: A layer is not in the model, or is not of its kind.
        MissingDependencyError: loralib is not installed.
    """
    require_loralib()
    modules = dict(model.named_modules())
    for layer in layers:
        if layer.name not in modules:
            raise InputError(
                f"the model has no layer {escape(layer.name, 120)}; give the model that the "
                "layers belong to"
            )
        kind = _kind(layer.name, modules[layer.name], merged=bool(layer.mask))
        if kind != layer.kind:
            raise InputError(
                f"{escape(layer.name, 120)} can become a {kind}, not a {layer.kind}; "
                "give the model that the layers belong to"
            )
    for layer in layers:
        parent, _, leaf = layer.name.rpartition(".")
        old = modules[layer.name]
        setattr(model.get_submodule(parent), leaf, _BUILD[layer.kind](layer, old))


def describe(model: "nn.Module") -> tuple[Layer, ...]:
    """Return the adapted layers of any model with loralib layers; rank 0 is not adapted.

    Raises:
        InputError: A layer is of a kind or state that `check` complains about.
    """
    from phi3_lora_qa.loralib_interop.loralib_state import lora_modules

    return tuple(_described(name, module) for name, module in lora_modules(model).items())


def _layer(
    name: str, module: "nn.Module", config: LoralibConfig, fused: Mapping[str, Blocks]
) -> Layer:
    leaf = name.rpartition(".")[2]
    given = mask_of(name, config.masks)
    blocks = fused.get(leaf, {})
    if given is None and blocks:
        given = dict.fromkeys(blocks, True)
    mask: tuple[bool, ...] = ()
    if given is not None:
        mask = expand(given, blocks)
    kind = _kind(name, module, merged=bool(mask))
    if kind == "MergedLinear":
        _require_fit(name, module, mask)
    return Layer(
        name=name,
        kind=kind,
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout if kind in ("Linear", "MergedLinear") else 0.0,
        mask=mask,
        groups=getattr(module, "groups", 1),
    )


def _kind(name: str, module: "nn.Module", *, merged: bool) -> Kind:
    from torch import nn

    where = escape(name, 120)
    # The classes themselves: a subclass (a quantised layer, PEFT's, loralib's) computes otherwise.
    kind = type(module)
    if merged and kind is not nn.Linear:
        raise InputError(f"{where} is a {kind.__name__}, and a mask is for linear layers; drop it")
    if kind is nn.Linear:
        return "MergedLinear" if merged else "Linear"
    if kind is nn.Embedding and module.max_norm is None:
        return "Embedding"
    if kind is nn.Embedding:
        raise InputError(
            f"{where}: with max_norm loralib's Embedding rescales its own A at each look-up; "
            "leave the layer out"
        )
    if kind is nn.Conv2d:
        height, width = module.kernel_size  # type: ignore[misc]
        if height != width:
            raise InputError(
                f"{where}: loralib takes one number as kernel size, and this is {height} by "
                f"{width}; leave the layer out"
            )
        return "Conv2d"
    if kind in (nn.Conv1d, nn.Conv3d):
        raise InputError(
            f"{where}: loralib's {kind.__name__} shapes its factors for two dimensions and fails "
            "with kernels larger than 1; leave the layer out, or adapt it with PEFT"
        )
    raise InputError(
        f"{where} is a {kind.__name__}, for which loralib has no layer; target Linear, Embedding "
        "or Conv2d layers"
    )


def _require_fit(name: str, module: "nn.Module", mask: tuple[bool, ...]) -> None:
    rows = module.out_features
    if rows % len(mask):  # type: ignore[operator]
        raise InputError(
            f"{escape(name, 120)} has {rows} rows, which are not {len(mask)} equal blocks; "
            "give a mask whose length divides them"
        )


def _linear(layer: Layer, old: Any) -> "nn.Module":
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
    _start(new, old)
    new.weight, new.bias = old.weight, old.bias
    return new


def _embedding(layer: Layer, old: Any) -> "nn.Module":
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
    _start(new, old)
    new.weight = old.weight
    return new


def _conv2d(layer: Layer, old: Any) -> "nn.Module":
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
    _start(new, old)
    new.conv = old
    return new


_BUILD: Mapping[str, Callable[[Layer, Any], "nn.Module"]] = {
    "Linear": _linear,
    "MergedLinear": _linear,
    "Embedding": _embedding,
    "Conv2d": _conv2d,
}


def _start(new: Any, old: Any) -> None:
    """Make the factors real and let loralib initialise them.

    The layer was built without memory, so that a large weight is neither made nor drawn in vain;
    its weight is still without memory here, and loralib's initialisation of it does nothing.
    """
    import torch
    from torch import nn

    for name in ("lora_A", "lora_B"):
        shape = getattr(new, name).shape
        empty = torch.empty(shape, dtype=old.weight.dtype, device=old.weight.device)
        setattr(new, name, nn.Parameter(empty))
    new.reset_parameters()
    if not isinstance(new.lora_dropout, nn.Module):
        new.lora_dropout = nn.Identity()  # loralib's is a lambda, which cannot be pickled
    new.train(old.training)
    for parameter in old.parameters():
        parameter.requires_grad_(False)


def _described(name: str, module: Any) -> Layer:
    kind = type(module).__name__
    if kind not in _BUILD or type(module).__module__ != "loralib.layers":
        raise InputError(
            f"{escape(name, 120)} is a {kind}, which is neither converted nor rebuilt; "
            f"use loralib's {', '.join(_BUILD)}"
        )
    return Layer(
        name=name,
        kind=kind,  # type: ignore[arg-type] # it is a key of _BUILD
        rank=module.r,
        alpha=module.lora_alpha,
        dropout=getattr(module.lora_dropout, "p", 0.0) if kind.endswith("Linear") else 0.0,
        mask=tuple(bool(on) for on in module.enable_lora) if kind == "MergedLinear" else (),
        groups=module.conv.groups if kind == "Conv2d" else 1,
    )


def _is_leaf(module: "nn.Module") -> bool:
    return next(module.children(), None) is None and hasattr(module, "weight")
