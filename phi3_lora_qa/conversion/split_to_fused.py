"""Adapters of split projections (q, k, v; gate, up) as adapters of Phi-3's fused ones, exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule
from phi3_lora_qa.errors import AdapterError, InputError, escape
from phi3_lora_qa.lora.factors import Factors
from phi3_lora_qa.lora.fused import Layout, fuse

if TYPE_CHECKING:
    import torch


def fuse_adapter(adapter: PeftAdapter, layouts: Mapping[str, Layout]) -> PeftAdapter:
    """Fuse the factors of split projections; the other modules stay unchanged.

    The fused A stacks the A of the parts (one copy if they share it), the fused B has their B in
    blocks and zeros elsewhere, so the delta is bitwise the same.

    Args:
        adapter: An adapter with modules such as ``model.layers.0.self_attn.q_proj``.
        layouts: The parts of each fused projection of the base, by its last name.

    Returns:
        The adapter of the fused projections.

    Raises:
        AdapterError: No projection is split, or a fused module is adapted both whole and in parts.
        InputError: The parts do not fit the base, or their scalings cannot be joined exactly.

    Example:
        >>> import torch
        >>> from phi3_lora_qa.lora import gate_up_layout
        >>> up = PeftModule(name="mlp.up_proj", A=torch.ones(2, 4), B=torch.ones(3, 2), scaling=1.0)
        >>> layouts = {"gate_up_proj": gate_up_layout(intermediate=3)}
        >>> fused = fuse_adapter(PeftAdapter(modules=(up,), base=""), layouts)
        >>> fused.modules[0].name, tuple(fused.modules[0].B.shape)
        ('mlp.gate_up_proj', (6, 2))
    """
    fused_names = {block.name: fused for fused, layout in layouts.items() for block in layout}
    groups: dict[str, dict[str, PeftModule]] = {}
    kept = []
    for module in adapter.modules:
        if module.leaf in fused_names:
            parent = module.name.rpartition(".")[0]
            name = f"{parent}.{fused_names[module.leaf]}" if parent else fused_names[module.leaf]
            groups.setdefault(name, {})[module.leaf] = module
        else:
            kept.append(module)
    if not layouts:
        raise AdapterError(
            "there is nothing to fuse: this base has no fused projections",
            "use the adapter unchanged",
        )
    if not groups:
        raise AdapterError(
            "there is nothing to fuse: the adapter has none of the split layers "
            f"{', '.join(fused_names)}; use it unchanged"
        )
    for module in kept:
        if module.name in groups:
            raise AdapterError(
                f"the adapter has factors for {escape(module.name, 120)} and for its parts; "
                "remove one of the two"
            )
    fused = [_fused(name, parts, layouts) for name, parts in groups.items()]
    return replace(adapter, modules=(*kept, *fused))


def _fused(name: str, parts: Mapping[str, PeftModule], layouts: Mapping[str, Layout]) -> PeftModule:
    import torch

    try:
        result = fuse({n: _factors(m) for n, m in parts.items()}, layouts[name.rpartition(".")[2]])
    except InputError as error:
        raise InputError(f"{escape(name, 120)}: {error}") from error
    dtypes = {m.A.dtype for m in parts.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    A, B = (torch.from_numpy(factor).to(dtype) for factor in (result.A, result.B))
    if not (
        torch.equal(A.double().nan_to_num(), torch.from_numpy(result.A).nan_to_num())
        and torch.equal(B.double().nan_to_num(), torch.from_numpy(result.B).nan_to_num())
    ):
        raise InputError(
            f"{escape(name, 120)}: B with the folded scaling is not exact in {dtype}; "
            "save the adapter in float32 first"
        )
    m = result.magnitude
    magnitude = None if m is None else torch.from_numpy(m).to(_magnitude_dtype(parts.values()))
    return PeftModule(name=name, A=A, B=B, scaling=result.scaling, magnitude=magnitude)


def _magnitude_dtype(parts: Iterable[PeftModule]) -> "torch.dtype":
    """Return a dtype in which the magnitudes of all parts are exact."""
    import torch

    dtypes = {part.magnitude.dtype for part in parts if part.magnitude is not None}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def _factors(module: PeftModule) -> Factors:
    m = module.magnitude
    return Factors(
        A=module.A.double().numpy(),
        B=module.B.double().numpy(),
        scaling=module.scaling,
        magnitude=None if m is None else m.double().numpy(),
    )
