"""The types of drawn cases: a layer's weight, its LoRA and an input, for each kind of layer.

A case contains everything that a reference and an implementation need for a comparison. Values are
float64 arrays that are exact in the case's dtype, so loading them in that dtype changes nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.lora import Array, Factors, scaling_of
from phi3_lora_qa.strategies.compact_repr import CompactRepr


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LayerCase(CompactRepr):
    """A linear layer with LoRA, and a batch of inputs.

    Attributes:
        dtype: The dtype in which weight, factors and x are stored.
        weight: W, float64 (out, in).
        base_bias: The base layer's own bias, float64 (out,), or None.
        factors: A, B, scaling; magnitude for DoRA and bias for lora_bias.
        alpha: lora_alpha, from which factors.scaling follows.
        rslora: Whether the scaling is alpha / sqrt(r).
        x: Inputs, float64 (batch, in).

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(linear_cases())
        ... def test(case):
        ...     assert case.x.shape[1] == case.weight.shape[1]
        >>> test()
    """

    dtype: str
    weight: Array
    base_bias: Array | None
    factors: Factors
    alpha: float
    rslora: bool
    x: Array


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class EmbeddingCase(CompactRepr):
    """An embedding with LoRA, and ids to look up; delta = s · (B·A)ᵀ.

    Attributes:
        dtype: The dtype in which table and factors are stored.
        table: float64 (num, dim).
        A: lora_embedding_A, float64 (r, num).
        B: lora_embedding_B, float64 (dim, r).
        alpha: lora_alpha.
        rslora: Whether the scaling is alpha / sqrt(r).
        ids: int64 (rows, tokens), below num.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(embedding_cases())
        ... def test(case):
        ...     assert case.ids.max() < len(case.table)
        >>> test()
    """

    dtype: str
    table: Array
    A: Array
    B: Array
    alpha: float
    rslora: bool
    ids: NDArray[np.int64]

    @property
    def scaling(self) -> float:
        """The scaling s of the delta."""
        return scaling_of(self.alpha, len(self.A), rslora=self.rslora)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ConvCase(CompactRepr):
    """A convolution with LoRA in PEFT's factorization: lora_A, then lora_B of kernel 1.

    y = conv(x, W) + s · conv(conv(x, A), B). A sees all input channels and has the base's kernel,
    stride and padding; B has kernel 1 and the base's groups. Dilation is 1.

    Attributes:
        dtype: The dtype in which weight, factors and x are stored.
        weight: W, float64 (out, in / groups, *kernel).
        base_bias: The base layer's own bias, float64 (out,), or None.
        A: lora_A's weight, float64 (r, in, *kernel).
        B: lora_B's weight, float64 (out, r / groups, *ones).
        alpha: lora_alpha.
        rslora: Whether the scaling is alpha / sqrt(r).
        groups: Divides in, out and r.
        stride: The same in each dimension.
        padding: The same in each dimension.
        x: Inputs, float64 (batch, in, *space); each side of space is at least the kernel's.

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(conv_cases(dims=1))
        ... def test(case):
        ...     assert case.A.shape[1:] == case.weight.shape[1:]
        >>> test()
    """

    dtype: str
    weight: Array
    base_bias: Array | None
    A: Array
    B: Array
    alpha: float
    rslora: bool
    groups: int
    stride: int
    padding: int
    x: Array

    @property
    def scaling(self) -> float:
        """The scaling s of the delta."""
        return scaling_of(self.alpha, len(self.A), rslora=self.rslora)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class MergedLinearCase(CompactRepr):
    """loralib's MergedLinear: n fused blocks of output rows, k of them with LoRA of rank r each.

    The i-th enabled block gets s · B_i·A_i, with A_i the i-th r rows of A and B_i the i-th out/n
    rows of B; s = alpha / r.

    Attributes:
        dtype: The dtype in which weight, factors and x are stored.
        weight: W, float64 (out, in), without fan_in_fan_out.
        base_bias: The base layer's own bias, float64 (out,), or None.
        enable_lora: n flags, k of them true, k >= 1; n divides out.
        rank: r.
        A: lora_A, float64 (r·k, in).
        B: lora_B, float64 (out/n·k, r).
        alpha: lora_alpha.
        x: Inputs, float64 (batch, in).

    Example:
        >>> from hypothesis import given, settings
        >>> @settings(max_examples=5, database=None)
        ... @given(merged_linear_cases())
        ... def test(case):
        ...     assert len(case.A) == case.rank * sum(case.enable_lora)
        >>> test()
    """

    dtype: str
    weight: Array
    base_bias: Array | None
    enable_lora: tuple[bool, ...]
    rank: int
    A: Array
    B: Array
    alpha: float
    x: Array

    @property
    def scaling(self) -> float:
        """The scaling s of the delta."""
        return scaling_of(self.alpha, self.rank, rslora=False)
