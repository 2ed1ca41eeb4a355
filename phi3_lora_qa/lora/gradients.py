"""Gradients of the factors, and how far a computed one may be.

For y = W·x + s · (B·(A·x) + b) and a loss with gradient g in y, summed over a batch:
grad A = s · Bᵀ·g·xᵀ, grad B = s · g·(A·x)ᵀ, grad b = s · g. With B = 0 the first is zero, with
A = 0 the second: that is what a fresh adapter shows at step 0.
"""

from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.lora.factors import Array, Factors
from phi3_lora_qa.lora.rounding import Arithmetic, arithmetic_of, exact


@dataclass(frozen=True, kw_only=True)
class FactorArrays:
    """One array for each factor, such as its gradient or a bound.

    Attributes:
        A: float64 (r, in).
        B: float64 (out, r).
        bias: float64 (out,); None without lora_bias.
    """

    A: Array
    B: Array
    bias: Array | None = None


def factor_gradients(factors: Factors, x: Array, gradient: Array) -> FactorArrays:
    """Return the gradients of a batch, without DoRA.

    Args:
        factors: The module's LoRA.
        x: Inputs, float64 (..., in).
        gradient: The loss's gradient in y, float64 (..., out).
    """
    rows = x.reshape(-1, x.shape[-1])
    g = factors.scaling * gradient.reshape(-1, gradient.shape[-1])
    return FactorArrays(
        A=(g @ factors.B).T @ rows,
        B=g.T @ (rows @ factors.A.T),
        bias=None if factors.bias is None else g.sum(axis=0),
    )


def gradient_bound(
    factors: Factors, x: Array, gradient: Array, dtype: str | Arithmetic
) -> FactorArrays:
    """Bound the error of computed gradients, for n rows of x.

    Each step is one of `phi3_lora_qa.lora.rounding`: s·g; (s·g)·B with gamma_out, times x with
    gamma_n; A·x with gamma_in, times s·g with gamma_n; their sums for b with gamma_n.
    """
    arithmetic = arithmetic_of(dtype)
    rows = exact(x.reshape(-1, x.shape[-1]))
    g = arithmetic.scale(exact(gradient.reshape(-1, gradient.shape[-1])), factors.scaling)
    inner = arithmetic.product(g, exact(factors.B))
    hidden = arithmetic.product(rows, exact(factors.A).transposed())
    ones = exact(np.ones((1, len(rows.value))))
    return FactorArrays(
        A=arithmetic.product(inner.transposed(), rows).error,
        B=arithmetic.product(g.transposed(), hidden).error,
        bias=None if factors.bias is None else arithmetic.product(ones, g).error[0],
    )
