"""Arrays that do not match are refused with a fix, and never combined by broadcasting."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phi3_lora_qa import lora
from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Factors, Mixture

F = Factors(A=np.ones((2, 3)), B=np.ones((4, 2)), scaling=1.0)
W, X, G = np.ones((4, 3)), np.ones((5, 3)), np.ones((5, 4))
WIDER = Factors(A=np.ones((2, 5)), B=np.ones((4, 2)), scaling=1.0)


def everything(f: Factors) -> Sequence[Callable[[], object]]:
    """Every function that takes factors."""
    return (
        lambda: lora.delta(f),
        lambda: lora.output(W, f, X),
        lambda: lora.factor_gradients(W, f, X, G),
        lambda: lora.merge_bound(W, f, "float32"),
        lambda: lora.singular_values(f),
        lambda: lora.concatenate([f], [1.0]),
        lambda: lora.fuse({"gate_proj": f}, lora.gate_up_layout(intermediate=4)),
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"A": np.ones((3, 3))},
        {"A": np.ones(3)},
        {"B": np.ones((4, 2, 1))},
        {"magnitude": np.ones(3)},
        {"bias": np.ones((4, 1))},
    ],
    ids=str,
)
def test_factors_with_mismatched_shapes_are_refused(changed: dict[str, Any]) -> None:
    broken = replace(F, **changed)
    for compute in everything(broken):
        with pytest.raises(
            InputError, match=r"factors do not match: .*; pass A \(r, in\), B \(out, r\), and"
        ):
            compute()


@pytest.mark.parametrize("part", ["A", "B"])
def test_factors_of_another_dtype_are_rejected(part: str) -> None:
    single = replace(F, **{part: getattr(F, part).astype(np.float32)})
    for compute in everything(single):
        with pytest.raises(InputError, match=r"must be float64: got .*float32.*; convert them"):
            compute()


def test_a_rank_of_0_is_a_delta_of_zeros() -> None:
    nothing = Factors(A=np.ones((0, 3)), B=np.ones((4, 0)), scaling=1.0)
    assert not lora.delta(nothing).any()
    assert lora.delta(nothing).shape == (4, 3)
    assert not lora.delta_bound(nothing, "float32").any()


@pytest.mark.parametrize("weight", [np.ones((3, 4)), np.ones((1, 3)), np.ones(3)], ids=np.shape)
def test_a_weight_of_the_wrong_shape_is_refused(weight: lora.Array) -> None:
    for compute in (
        lambda: lora.merged_weight(weight, F),
        lambda: lora.output(weight, F, X),
        lambda: lora.factor_gradients(weight, F, X, G),
    ):
        with pytest.raises(InputError, match=r"not fit the factors: .* of \(4, 3\); pass it as"):
            compute()


def test_inputs_and_gradients_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(5, 4\) instead of \(..., 3\); pass them as rows"):
        lora.output(W, F, G)
    with pytest.raises(InputError, match=r"\(3, 4\) for inputs \(5, 3\); pass \(5, 4\)"):
        lora.factor_gradients(W, F, X, G[:3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_have_an_infinite_bound(value: float) -> None:
    broken = replace(F, A=np.full((2, 3), value))
    found = [
        lora.delta_bound(broken, "float32"),
        lora.merge_bound(W, broken, "bfloat16"),
        lora.forward_bound(W, broken, X, "float16"),
        lora.gradient_bound(W, broken, X, G, "float32").B,
    ]
    assert all(np.isinf(bound).all() for bound in found)


def test_adapters_of_different_modules_are_not_combined() -> None:
    parts, weights = [F, WIDER], [1.0, 1.0]
    for combine in (
        lambda: lora.concatenate(parts, weights),
        lambda: lora.weighted_delta(parts, weights),
        lambda: lora.mix_factors(parts, weights, Mixture()),
    ):
        with pytest.raises(InputError, match=r"sizes: \(4, 3\), \(4, 5\); pass factors of the"):
            combine()


@pytest.mark.parametrize(
    "choice",
    [{"kind": "slerp"}, {"majority": "most"}, {"density": -0.5}, {"density": np.nan}],
    ids=str,
)
def test_an_invalid_mixture_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"invalid mixture: .*; use a kind from linear, ties, mag"):
        Mixture(**choice)


def test_a_rank_below_0_is_refused() -> None:
    for cut in (lambda: lora.truncate(F, -1), lambda: lora.factorize(W, -1)):
        with pytest.raises(InputError, match="rank must be at least 0: got -1; pass 0 or"):
            cut()
    assert lora.truncate(F, 0).factors.rank == 0


def test_blocks_that_are_not_equal_are_refused() -> None:
    for cut in (
        lambda: lora.block_diagonal(np.ones((5, 2)), 2),
        lambda: lora.block_diagonal(np.ones((5, 2)), 0),
        lambda: lora.diagonal_blocks(np.ones((4, 3)), 2),
        lambda: lora.dense_kernel(np.ones((5, 1, 2)), 2),
    ):
        with pytest.raises(InputError, match="equal blocks; pass a number of blocks that divides"):
            cut()


@pytest.mark.parametrize(
    "where",
    [
        {"kernel": (5, 1)},
        {"kernel": (2,)},
        {"kernel": (2, 2), "stride": (1,)},
        {"kernel": (2, 2), "padding": (1, 1, 1)},
        {"kernel": (3, 3), "padding": (1, 0)},
    ],
    ids=str,
)
def test_a_kernel_that_does_not_fit_the_input_is_refused(where: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"do not fit the input .*; pass one number for each dim"):
        lora.patches(np.ones((1, 2, 2)), **where)


def test_an_invalid_pattern_is_named() -> None:
    config = lora.ScalingConfig(rank=8, alpha=8, alpha_pattern={"o_proj(": 4})
    with pytest.raises(InputError, match=r"invalid regular expression: o_proj\( .*; fix the patt"):
        lora.module_scaling("model.o_proj", config)


def test_negative_cycles_are_refused() -> None:
    with pytest.raises(InputError, match="cycles must be at least 0: got -1; pass 0 or more"):
        lora.merge_cycles_bound(W, F, "float32", -1)
    assert not lora.merge_cycles_bound(W, F, "float32", 0).any()
