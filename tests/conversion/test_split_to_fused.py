from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.conversion.peft_adapter import PeftAdapter, PeftModule
from phi3_lora_qa.conversion.split_to_fused import fuse_adapter
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.fused import gate_up_layout, qkv_layout

LAYOUTS = {
    "qkv_proj": qkv_layout(heads=4, kv_heads=2, head_dim=3),
    "gate_up_proj": gate_up_layout(intermediate=5),
}
ROWS = {"q_proj": 12, "k_proj": 6, "v_proj": 6, "gate_proj": 5, "up_proj": 5, "o_proj": 8}
ATTENTION = "model.layers.0.self_attn"


def module(leaf: str, rank: int = 2, seed: int = 0, **changes: Any) -> PeftModule:
    generator = torch.Generator().manual_seed(seed + len(leaf) * 7 + rank)
    a = torch.randn(rank, 8, generator=generator)
    b = torch.randn(ROWS[leaf], rank, generator=generator)
    values: dict[str, Any] = {
        "name": f"{ATTENTION}.{leaf}",
        "A": a,
        "B": b,
        "scaling": 2.0,
    } | changes
    return PeftModule(**values)


def adapter(*modules: PeftModule) -> PeftAdapter:
    return PeftAdapter(modules=modules, base="llama")


def delta(found: PeftModule) -> Any:
    A, B = found.A.double().numpy(), found.B.double().numpy()
    total = np.zeros((B.shape[0], A.shape[1]))
    for p in range(found.rank):
        total = total + np.outer(B[:, p], A[p])
    return found.scaling * total


def stacked(parts: Sequence[PeftModule], leaves: Sequence[str]) -> Any:
    by_leaf = {part.leaf: part for part in parts}
    return np.concatenate(
        [delta(by_leaf[n]) if n in by_leaf else np.zeros((ROWS[n], 8)) for n in leaves]
    )


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["q_proj", "k_proj", "v_proj"]), st.integers(1, 5), min_size=1),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_the_fused_delta_stacks_the_parts_deltas_exactly(
    ranks: dict[str, int], seed: int, dtype: torch.dtype
) -> None:
    parts = [module(leaf, rank, seed) for leaf, rank in ranks.items()]
    parts = [replace(part, A=part.A.to(dtype), B=part.B.to(dtype)) for part in parts]
    (fused,) = fuse_adapter(adapter(*parts), LAYOUTS).modules
    assert fused.name == f"{ATTENTION}.qkv_proj"
    assert fused.A.dtype == fused.B.dtype == dtype
    assert np.array_equal(delta(fused), stacked(parts, ["q_proj", "k_proj", "v_proj"]))


def test_every_group_is_fused_and_other_modules_stay_unchanged() -> None:
    kept = module("o_proj")
    made = fuse_adapter(
        adapter(module("up_proj"), kept, module("q_proj"), module("gate_proj", 3)), LAYOUTS
    )
    by_leaf = {found.leaf: found for found in made.modules}
    assert set(by_leaf) == {"o_proj", "qkv_proj", "gate_up_proj"}
    assert by_leaf["o_proj"] is kept
    assert by_leaf["gate_up_proj"].rank == 5


def test_a_power_of_two_ratio_of_scalings_is_folded_exactly_and_others_are_refused() -> None:
    parts = [module("q_proj"), module("v_proj", scaling=0.5)]
    (fused,) = fuse_adapter(adapter(*parts), LAYOUTS).modules
    assert np.array_equal(delta(fused), stacked(parts, ["q_proj", "k_proj", "v_proj"]))
    parts[1] = replace(parts[1], scaling=0.3)
    with pytest.raises(InputError, match=r"self_attn\.qkv_proj: .*not a power of two"):
        fuse_adapter(adapter(*parts), LAYOUTS)


def test_a_folded_scaling_that_is_inexact_in_the_dtype_is_refused() -> None:
    tiny = torch.full((6, 2), 6e-8).half()  # the smallest that float16 has
    parts = [
        replace(module("q_proj"), A=torch.ones(2, 8).half(), B=torch.ones(12, 2).half()),
        replace(module("v_proj", scaling=0.5), A=torch.ones(2, 8).half(), B=tiny),
    ]
    with pytest.raises(InputError, match="save the adapter in float32 first"):
        fuse_adapter(adapter(*parts), LAYOUTS)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([module("o_proj")], "nothing to fuse"),
        (
            [module("q_proj"), module("o_proj", name=f"{ATTENTION}.qkv_proj")],
            "and for its parts; remove one",
        ),
        ([module("q_proj", B=torch.ones(11, 2))], "11 rows of B"),
        ([module("q_proj"), module("v_proj", A=torch.ones(2, 9))], "numbers of input features"),
    ],
)
def test_parts_that_do_not_make_a_fused_adapter_are_rejected(
    modules: list[PeftModule], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fuse_adapter(adapter(*modules), LAYOUTS)
