import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.conversion.equal_ranks import equalize_ranks, has_exact_alphas
from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule, exact_alpha
from phi3_lora_qa.errors import InputError


def module(name: str, rank: int, scaling: float) -> PeftModule:
    generator = torch.Generator().manual_seed(rank)
    a = torch.randn(rank, 6, generator=generator)
    b = torch.randn(5, rank, generator=generator)
    return PeftModule(name=name, A=a, B=b, scaling=scaling)


def adapter(*modules: PeftModule) -> PeftAdapter:
    return PeftAdapter(modules=modules, base="")


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.floats(1e-3, 1e3) | st.integers(1, 64)),
        min_size=1,
        max_size=6,
    )
)
def test_all_ranks_become_equal_and_every_scaling_stays_exact(
    pairs: list[tuple[int, float]],
) -> None:
    modules = [module(f"m{at}", rank, scaling) for at, (rank, scaling) in enumerate(pairs)]
    found = equalize_ranks(adapter(*modules)).modules
    (rank,) = {module.rank for module in found}
    assert max(m.rank for m in modules) <= rank < 2 * max(m.rank for m in modules)
    for old, new in zip(modules, found, strict=True):
        assert exact_alpha(new.scaling, rank, new.name) / rank == old.scaling
        assert torch.equal(new.A[: old.rank], old.A)
        assert torch.equal(new.B[:, : old.rank], old.B)
        assert not new.A[old.rank :].any()
        assert not new.B[:, old.rank :].any()


def test_equal_ranks_stay_as_they_are() -> None:
    same = adapter(module("a", 4, 2.0), module("b", 4, 0.5))
    assert equalize_ranks(same) is same


def test_a_convolutions_and_an_embeddings_factors_are_padded_in_their_own_shape() -> None:
    conv = PeftModule(name="c", A=torch.ones(2, 3, 5, 5), B=torch.ones(4, 2, 1, 1), scaling=1.0)
    found, _ = equalize_ranks(adapter(conv, module("a", 3, 1.0))).modules
    assert tuple(found.A.shape) == (3, 3, 5, 5)
    assert tuple(found.B.shape) == (4, 3, 1, 1)


def test_a_scaling_that_no_alpha_gives_is_exact_after_padding() -> None:
    scaling = next(s for s in (n / 10 + 0.01 for n in range(1, 10_000)) if not is_exact(s, 49))
    found = adapter(module("a", 49, scaling))
    assert not has_exact_alphas(found)
    assert has_exact_alphas(equalize_ranks(found))


def is_exact(scaling: float, rank: int) -> bool:
    return scaling * rank / rank == scaling and math.isfinite(scaling)


def test_one_module_of_a_huge_rank_does_not_make_all_others_huge() -> None:
    wide = PeftModule(name="wide", A=torch.zeros(1 << 20, 1), B=torch.zeros(1, 1 << 20), scaling=1)
    others = [
        PeftModule(name=f"m{at}", A=torch.zeros(1, 4096), B=torch.zeros(4096, 1), scaling=1)
        for at in range(8)
    ]
    with pytest.raises(InputError, match=r"at rank 1048576, that of wide, and at most"):
        equalize_ranks(adapter(wide, *others))
