from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Block, Factors, Layout

QKV = lora.qkv_layout(heads=2, kv_heads=1, head_dim=1)
Q = Factors(A=np.array([[1.0, 2.0]]), B=np.array([[1.0], [3.0]]), scaling=2.0)
V = Factors(A=np.array([[0.0, 1.0], [4.0, 0.0]]), B=np.array([[5.0, 6.0]]), scaling=2.0)


def same(a: Factors, b: Factors) -> bool:
    """Return whether two factors are bitwise equal."""
    optional = ((a.magnitude, b.magnitude), (a.bias, b.bias))
    return (
        np.array_equal(a.A, b.A)
        and np.array_equal(a.B, b.B)
        and a.scaling == b.scaling
        and all((x is None) == (y is None) for x, y in optional)
        and all(x is None or y is None or np.array_equal(x, y) for x, y in optional)
    )


def drawn() -> Iterator[tuple[dict[str, Factors], Layout]]:
    """Yield split adapters with integers: ranks and sizes vary, parts may be absent."""
    rng = np.random.default_rng(0)
    for number in range(1000):
        heads, kv, size, inputs = (int(n) for n in rng.integers(1, 4, 4))
        layout = (
            lora.qkv_layout(heads=heads * kv, kv_heads=kv, head_dim=size)
            if number % 2
            else lora.gate_up_layout(intermediate=heads * size)
        )
        parts: dict[str, Factors] = {}
        for block in layout:
            if rng.random() < 0.8 or not parts:
                rank = int(rng.integers(1, 4))
                parts[block.name] = Factors(
                    A=rng.integers(-9, 9, (rank, inputs)).astype(float),
                    B=rng.integers(1, 9, (block.rows, rank)).astype(float),
                    scaling=2.0 ** int(rng.integers(-2, 3)) * 1.5,
                )
        yield parts, layout


def test_phi3s_projections_have_their_blocks_in_this_order() -> None:
    layout = lora.qkv_layout(heads=8, kv_heads=2, head_dim=16)
    assert [(b.name, b.rows) for b in layout] == [("q_proj", 128), ("k_proj", 32), ("v_proj", 32)]
    assert lora.row_slices(layout) == {
        "q_proj": slice(0, 128),
        "k_proj": slice(128, 160),
        "v_proj": slice(160, 192),
    }
    assert [(b.name, b.rows) for b in lora.gate_up_layout(intermediate=7)] == [
        ("gate_proj", 7),
        ("up_proj", 7),
    ]


def test_the_layouts_match_phi3s_modules() -> None:
    from transformers import Phi3Config
    from transformers.models.phi3.modeling_phi3 import Phi3Attention, Phi3MLP

    config = Phi3Config(
        hidden_size=24,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=20,
        pad_token_id=0,
    )
    attention, mlp = Phi3Attention(config, layer_idx=0), Phi3MLP(config)
    qkv = lora.qkv_layout(heads=6, kv_heads=2, head_dim=4)
    assert sum(b.rows for b in qkv) == attention.qkv_proj.out_features
    gate_up = lora.gate_up_layout(intermediate=20)
    assert sum(b.rows for b in gate_up) == mlp.gate_up_proj.out_features


def test_split_parts_of_different_rank_become_one_and_absent_ones_zero() -> None:
    f = lora.fuse({"v_proj": V, "q_proj": Q}, QKV)
    assert f.A.tolist() == [[1, 2], [0, 1], [4, 0]]
    assert f.B.tolist() == [[1, 0, 0], [3, 0, 0], [0, 0, 0], [0, 5, 6]]
    assert f.scaling == 2.0
    assert f.magnitude is None
    assert f.bias is None
    assert lora.delta(f).tolist() == [[2, 4], [6, 12], [0, 0], [48, 10]]


def test_the_fused_delta_is_the_stack_of_the_parts_in_a_thousand_draws() -> None:
    for parts, layout in drawn():
        found = lora.delta(lora.fuse(parts, layout))
        for name, at in lora.row_slices(layout).items():
            expected = lora.delta(parts[name]) if name in parts else np.zeros_like(found[at])
            assert np.array_equal(found[at], expected)


def test_splitting_and_trimming_a_fused_adapter_returns_the_parts() -> None:
    for parts, layout in drawn():
        if len({f.scaling for f in parts.values()}) > 1:
            continue
        fused = lora.fuse(parts, layout)
        for name, part in lora.split(fused, layout).items():
            trimmed = lora.trim(part)
            if name not in parts:
                assert trimmed.rank == 0
            elif len({f.A.tobytes() for f in parts.values()}) == len(parts):
                assert same(trimmed, parts[name])


def test_fusing_a_split_adapter_returns_the_fused_adapter() -> None:
    rng = np.random.default_rng(1)
    for parts, layout in drawn():
        fused = replace(lora.fuse(parts, layout), bias=rng.standard_normal(rows(layout)))
        assert same(lora.fuse(lora.split(fused, layout), layout), fused)


def test_parts_with_one_a_share_it_and_others_come_after() -> None:
    k = replace(V, B=np.array([[7.0, 8.0]]))
    f = lora.fuse({"q_proj": Q, "k_proj": k, "v_proj": V}, QKV)
    assert f.A.tolist() == [[1, 2], [0, 1], [4, 0]]
    assert f.B.tolist() == [[1, 0, 0], [3, 0, 0], [0, 7, 8], [0, 5, 6]]


@pytest.mark.parametrize(("scaling", "factor"), [(1.0, 0.5), (-8.0, -4.0), (0.0, 0.0)])
def test_a_scaling_that_is_a_power_of_two_away_is_folded_into_b_exactly(
    scaling: float, factor: float
) -> None:
    f = lora.fuse({"q_proj": Q, "v_proj": replace(V, scaling=scaling)}, QKV)
    assert f.scaling == 2.0
    assert f.B[3].tolist() == [0.0, 5 * factor, 6 * factor]


def test_a_bias_is_folded_with_b_and_zero_where_a_part_has_none() -> None:
    v = replace(V, scaling=4.0, bias=np.array([3.0]))
    f = lora.fuse({"q_proj": Q, "v_proj": v}, QKV)
    assert f.bias is not None
    assert f.bias.tolist() == [0.0, 0.0, 0.0, 6.0]


def test_the_common_scaling_is_the_first_that_is_not_zero() -> None:
    f = lora.fuse({"q_proj": replace(Q, scaling=0.0), "v_proj": V}, QKV)
    assert f.scaling == 2.0
    assert not f.B[:2].any()
    nothing = lora.fuse({"q_proj": replace(Q, scaling=0.0)}, QKV)
    assert nothing.scaling == 0.0
    assert not lora.delta(nothing).any()


def test_incompatible_scalings_are_refused_and_rounded_only_on_request() -> None:
    parts = {"q_proj": Q, "v_proj": replace(V, scaling=0.6)}
    with pytest.raises(
        InputError, match=r"ratio is not a power of two: 0.6 for v_proj, 2.0 for another"
    ):
        lora.fuse(parts, QKV)
    rounded = lora.fuse(parts, QKV, rounded=True)
    assert rounded.B[3].tolist() == [0.0, 1.5, 0.3 * 6]


def test_magnitudes_are_stacked_and_missing_ones_refused() -> None:
    parts = {
        "q_proj": replace(Q, magnitude=np.array([1.0, 2.0])),
        "k_proj": replace(V, magnitude=np.array([3.0])),
        "v_proj": replace(V, magnitude=np.array([4.0])),
    }
    fused = lora.fuse(parts, QKV)
    assert fused.magnitude is not None
    assert fused.magnitude.tolist() == [1, 2, 3, 4]
    again = lora.split(fused, QKV)["k_proj"].magnitude
    assert again is not None
    assert again.tolist() == [3.0]
    del parts["k_proj"]
    with pytest.raises(InputError, match=r"2 of 3, .*; pass a magnitude for every part"):
        lora.fuse(parts, QKV)


def test_splitting_keeps_all_of_a_the_rows_of_b_and_of_the_bias() -> None:
    fused = Factors(
        A=Q.A, B=np.arange(4.0)[:, None], scaling=3.0, bias=np.array([4.0, 5.0, 6.0, 7.0])
    )
    parts = lora.split(fused, QKV)
    assert [p.B.ravel().tolist() for p in parts.values()] == [[0, 1], [2], [3]]
    biases = [p.bias.tolist() for p in parts.values() if p.bias is not None]
    assert biases == [[4, 5], [6], [7]]
    assert all(p.A is fused.A and p.scaling == 3.0 for p in parts.values())


def test_trimming_drops_unused_terms_and_nothing_else() -> None:
    f = Factors(
        A=np.array([[1.0], [2.0], [3.0]]),
        B=np.array([[0.0, 0.0, 1.0], [5.0, 0.0, 0.0]]),
        scaling=2.0,
        magnitude=np.array([1.0, 1.0]),
        bias=np.array([0.0, 1.0]),
    )
    trimmed = lora.trim(f)
    assert trimmed.A.ravel().tolist() == [1, 3]
    assert trimmed.B.tolist() == [[0, 1], [5, 0]]
    assert (trimmed.scaling, trimmed.magnitude, trimmed.bias) == (2.0, f.magnitude, f.bias)


def test_unknown_or_misshapen_parts_are_refused() -> None:
    with pytest.raises(InputError, match="q_proj, k_proj, v_proj: got none; pass at least one"):
        lora.fuse({}, QKV)
    with pytest.raises(InputError, match="some of q_proj, k_proj, v_proj: got "):
        lora.fuse({"qkv_proj": Q}, QKV)
    with pytest.raises(InputError, match=r"input features: \[2, 3\]; pass parts"):
        lora.fuse({"q_proj": Q, "v_proj": replace(V, A=np.zeros((2, 3)))}, QKV)
    with pytest.raises(
        InputError, match="v_proj does not fit the layout: 2 rows of B instead of 1"
    ):
        lora.fuse({"v_proj": Q}, QKV)
    with pytest.raises(InputError, match="does not fit B: 4 rows instead of 2"):
        lora.split(Q, QKV)


def rows(layout: tuple[Block, ...]) -> int:
    """Return the rows of the fused projection."""
    return sum(block.rows for block in layout)
