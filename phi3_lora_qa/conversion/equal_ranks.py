"""Equal ranks for all modules of an adapter, by padding with zeros: the deltas stay the same.

vLLM uses one rank and one alpha for all modules, and llama.cpp divides one alpha by each module's
rank. With equal ranks, both compute PEFT's scaling.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule, exact_alpha
from phi3_lora_qa.conversion.read_tensors import MAX_WEIGHTS_BYTES
from phi3_lora_qa.errors import InputError, escape


def equalize_ranks(adapter: PeftAdapter) -> PeftAdapter:
    """Pad the factors of every module to one rank.

    The padding is zero in A's rows and in B's columns, so every delta is bitwise the same. The rank
    is the largest of the modules, or the next one at which every scaling is exactly alpha / r.

    Args:
        adapter: The adapter.

    Returns:
        The adapter; it is the same one if its ranks are equal.

    Raises:
        InputError: The padded factors would be larger than an adapter may be.

    Example:
        >>> import torch
        >>> q, o = (
        ...     PeftModule(name=name, A=torch.ones(r, 4), B=torch.ones(3, r), scaling=1.0)
        ...     for name, r in (("qkv_proj", 6), ("o_proj", 2))
        ... )
        >>> [m.rank for m in equalize_ranks(PeftAdapter(modules=(q, o), base="")).modules]
        [6, 6]
    """
    largest = max(module.rank for module in adapter.modules)
    scalings = {module.scaling: module.name for module in adapter.modules}
    # A power of two is exact for every scaling, so the search ends there at the latest.
    rank = next(rank for rank in count(largest) if _is_exact(scalings, rank))
    if all(module.rank == rank for module in adapter.modules):
        return adapter
    _require_size(adapter, rank)
    return replace(adapter, modules=tuple(_padded(module, rank) for module in adapter.modules))


def has_exact_alphas(adapter: PeftAdapter) -> bool:
    """Return whether every module's scaling is exactly alpha / r for its own rank."""
    return all(_is_exact({m.scaling: m.name}, m.rank) for m in adapter.modules)


def _require_size(adapter: PeftAdapter, rank: int) -> None:
    """Reject a rank at which the padded factors are larger than an adapter may be."""
    size = sum(
        (module.A.nbytes + module.B.nbytes) // module.rank * rank for module in adapter.modules
    )
    if size > MAX_WEIGHTS_BYTES:
        widest = max(adapter.modules, key=lambda module: module.rank)
        raise InputError(
            f"the factors would need {size} bytes at rank {rank}, that of "
            f"{escape(widest.name, 120)}, and at most {MAX_WEIGHTS_BYTES} are allowed; check "
            "the rank of that module"
        )


def _is_exact(scalings: Mapping[float, str], rank: int) -> bool:
    try:
        for scaling, name in scalings.items():
            exact_alpha(scaling, rank, name)
    except InputError:
        return rank & (rank - 1) == 0  # only an overflow, which writing the adapter reports
    return True


def _padded(module: PeftModule, rank: int) -> PeftModule:
    import torch

    more = rank - module.rank
    A, B = module.A, module.B
    zeros_a = A.new_zeros((more, *A.shape[1:]))
    zeros_b = B.new_zeros((B.shape[0], more, *B.shape[2:]))
    return replace(module, A=torch.cat([A, zeros_a]), B=torch.cat([B, zeros_b], dim=1))
