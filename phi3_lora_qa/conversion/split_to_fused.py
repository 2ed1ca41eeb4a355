"""Adapters of split projections (q, k, v; gate, up) as adapters of Phi-3's fused ones, exactly."""

from collections.abc import Mapping
from dataclasses import replace

from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule
from phi3_lora_qa.errors import AdapterError, InputError, escape
from phi3_lora_qa.lora.factors import Factors
from phi3_lora_qa.lora.fused import Layout, fuse


def fuse_adapter(adapter: PeftAdapter, layouts: Mapping[str, Layout]) -> PeftAdapter:
    """Stack the factors of split projections; modules that are not split stay as they are.

    The fused A is the stack of the parts' (one copy where they share it), the fused B has their B
    in blocks and zeros elsewhere, so that the delta is theirs to the bit.

    Args:
        adapter: With modules such as ``model.layers.0.self_attn.q_proj``.
        layouts: The parts of each fused projection of the base, by its last name.

    Raises:
        AdapterError: Nothing is split, or a fused module has an adapter of its own as well.
        InputError: The parts do not fit the base, or their scalings cannot be joined exactly.
    """
    fused_names = {block.name: fused for fused, layout in layouts.items() for block in layout}
    groups: dict[str, dict[str, PeftModule]] = {}
    kept = []
    for module in adapter.modules:
        if module.leaf in fused_names:
            parent = module.name.rpartition(".")[0]
            home = f"{parent}.{fused_names[module.leaf]}" if parent else fused_names[module.leaf]
            groups.setdefault(home, {})[module.leaf] = module
        else:
            kept.append(module)
    if not groups:
        raise AdapterError(
            f"the adapter has none of the split layers {', '.join(fused_names)}, so there is nothing to "
            "fuse; use it as it is"
        )
    for module in kept:
        if module.name in groups:
            raise AdapterError(
                f"the adapter has {escape(module.name, 120)} both whole and in parts; "
                "keep only one of the two"
            )
    fused = [_fused(home, parts, layouts) for home, parts in groups.items()]
    return replace(adapter, modules=(*kept, *fused))


def _fused(home: str, parts: Mapping[str, PeftModule], layouts: Mapping[str, Layout]) -> PeftModule:
    import torch

    try:
        result = fuse({n: _factors(m) for n, m in parts.items()}, layouts[home.rpartition(".")[2]])
    except InputError as error:
        raise InputError(f"{escape(home, 120)}: {error}") from error
    dtypes = {m.A.dtype for m in parts.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    A, B = (torch.from_numpy(factor).to(dtype) for factor in (result.A, result.B))
    if not (
        torch.equal(A.double().nan_to_num(), torch.from_numpy(result.A).nan_to_num())
        and torch.equal(B.double().nan_to_num(), torch.from_numpy(result.B).nan_to_num())
    ):
        raise InputError(
            f"{escape(home, 120)}: a scaling folded into B does not fit {dtype}; "
            "save the adapter in float32 first"
        )
    return PeftModule(name=home, A=A, B=B, scaling=result.scaling)


def _factors(module: PeftModule) -> Factors:
    return Factors(A=module.A.double().numpy(), B=module.B.double().numpy(), scaling=module.scaling)
