"""Gradients of the factors, and bounds on the error of computed ones.

For y = W·x + s · (B·(A·x) + b) and a loss with gradient g in y, summed over a batch:
grad A = s · Bᵀ·g·xᵀ, grad B = s · g·(A·x)ᵀ, grad b = s · g. With B = 0 the first is zero, with
A = 0 the second: a newly initialized adapter shows this at step 0.

DoRA's y = c·(W·x + s·B·(A·x)), with c = m/N for each output and N the norms of the rows of
V = W + s·B·A, is trained as if N were constant (Liu et al. 2024, arXiv 2402.09353, section 4.3,
eq. 11); PEFT detaches it. A and B therefore get the gradients above with c·g in place of g, and
grad m = g·(V·x) / N.

The bound replays these steps with `phi3_lora_qa.lora.interval_arithmetic`, for n rows of x: s·g;
(s·g)·B with gamma_out, times x with gamma_n; A·x with gamma_in, times s·g with gamma_n; their sums
for b with gamma_n.

A layer that forms B·A first computes the gradient of that product: D = (s·g)ᵀ·x with gamma_n,
stored; then Bᵀ·D with gamma_out, and D·Aᵀ with gamma_in. D may be far larger than what remains in
D·Aᵀ.

With DoRA c·(s·g) takes the place of s·g, c = m/N as in `merge_bound`. The gradient of m is computed
as autograd does it for PEFT's layer, (Σ g·(W·x) + Σ (s·g)·(B·(A·x))) / N, with W·x as in
`forward_bound`; a layer that forms W·x + s·B·(A·x) first does not round more than that.

On a CPU torch sums the gradients of an embedding over the rows in the dtype itself, and those of a
convolution in float16; the argument ``batch`` of the bound is for such cases.
"""

from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array, Factors, delta, require_fit
from phi3_lora_qa.lora.forward_bounds import approximate_base
from phi3_lora_qa.lora.interval_arithmetic import Approximation, Arithmetic, arithmetic_of, exact
from phi3_lora_qa.lora.weight_bounds import approximate_delta


@dataclass(frozen=True, kw_only=True)
class FactorArrays:
    """One array for each factor, such as its gradient or a bound.

    Attributes:
        A: float64 (r, in).
        B: float64 (out, r).
        bias: float64 (out,); None without lora_bias.
        magnitude: float64 (out,); None without DoRA.

    Example:
        >>> import numpy as np
        >>> FactorArrays(A=np.zeros((1, 2)), B=np.zeros((3, 1))).bias is None
        True
    """

    A: Array
    B: Array
    bias: Array | None = None
    magnitude: Array | None = None


def factor_gradients(weight: Array, factors: Factors, x: Array, gradient: Array) -> FactorArrays:
    """Return the gradients of the factors for one batch; for DoRA the norms are held constant.

    Args:
        weight: W, float64 (out, in), which DoRA's norms need.
        factors: The module's LoRA factors.
        x: Inputs, float64 (..., in).
        gradient: The gradient of the loss in y, float64 (..., out).

    Returns:
        One gradient for each factor, summed over the batch.

    Raises:
        InputError: The shapes do not match.

    Example:
        >>> import numpy as np
        >>> initial = Factors(A=np.ones((1, 2)), B=np.zeros((1, 1)), scaling=0.5)
        >>> found = factor_gradients(np.ones((1, 2)), initial, np.ones((3, 2)), np.ones((3, 1)))
        >>> found.A.tolist(), found.B.tolist()
        ([[0.0, 0.0]], [[3.0]])
    """
    require_fit(weight, factors, x)
    if gradient.shape != (*x.shape[:-1], len(factors.B)):
        raise InputError(
            f"the gradient does not fit the outputs: {gradient.shape} for inputs {x.shape}; pass "
            f"{(*x.shape[:-1], len(factors.B))}"
        )
    rows = x.reshape(-1, x.shape[-1])
    g = gradient.reshape(-1, gradient.shape[-1])
    bias = None if factors.bias is None else factors.scaling * g.sum(axis=0)
    magnitude = None
    if factors.magnitude is not None:
        combined = weight + delta(factors)
        norms = np.linalg.norm(combined, axis=1)
        magnitude = (g * (rows @ combined.T)).sum(axis=0) / norms
        g = g * (factors.magnitude / norms)
    g = factors.scaling * g
    return FactorArrays(
        A=(g @ factors.B).T @ rows, B=g.T @ (rows @ factors.A.T), bias=bias, magnitude=magnitude
    )


def gradient_bound(  # noqa: PLR0913 - the arguments of forward_bound, and the gradient
    weight: Array,
    factors: Factors,
    x: Array,
    gradient: Array,
    dtype: str | Arithmetic,
    *,
    base_bias: Array | None = None,
    batch: Arithmetic | None = None,
    forms_delta: bool = False,
) -> FactorArrays:
    """Bound the error of computed gradients, step by step as the module's docstring describes.

    Args:
        weight: W, float64 (out, in), which only DoRA needs.
        factors: The module's LoRA factors.
        x: Inputs, float64 (..., in).
        gradient: The gradient of the loss in y, float64 (..., out).
        dtype: The dtype or `Arithmetic` in which the layer computes.
        base_bias: The base layer's bias (out,), which PEFT's DoRA adds and subtracts again.
        batch: The arithmetic in which the gradients of A and B are summed over the rows, if it
            differs from that of other sums.
        forms_delta: Whether the layer computes (B·A)·x instead of B·(A·x).

    Returns:
        One bound for each gradient; infinite where no bound exists.

    Raises:
        InputError: ``forms_delta`` with DoRA, which is not covered.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.5)
        >>> x, gradient = np.ones((4, 2)), np.ones((4, 3))
        >>> gradient_bound(np.ones((3, 2)), factors, x, gradient, "float32").B.shape
        (3, 1)
    """
    if forms_delta and factors.magnitude is not None:
        raise InputError(
            "no gradient bound covers a DoRA layer that forms its delta; "
            "pass forms_delta=False or factors without a magnitude"
        )
    arithmetic = arithmetic_of(dtype)
    rows = exact(x.reshape(-1, x.shape[-1]))
    g = exact(gradient.reshape(-1, gradient.shape[-1]))
    scaled = pulled = arithmetic.scale(g, factors.scaling)
    hidden = arithmetic.product(rows, exact(factors.A).transposed())
    magnitude = bias = None
    if factors.magnitude is not None:
        _, bare = approximate_base(weight, x, arithmetic, base_bias)
        pulled, magnitude = _dora_steps(weight, factors, (g, scaled, hidden, bare), arithmetic)
    if factors.bias is not None:
        bias = arithmetic.product(_ones(g), scaled).error[0]
    steps = _delta_steps if forms_delta else _factor_steps
    of_a, of_b = steps(factors, (rows, hidden, pulled), arithmetic, batch or arithmetic)
    return FactorArrays(A=of_a.error, B=of_b.error, bias=bias, magnitude=magnitude)


Steps = tuple[Approximation, Approximation, Approximation]


def _factor_steps(
    factors: Factors, values: Steps, arithmetic: Arithmetic, over_rows: Arithmetic
) -> tuple[Approximation, Approximation]:
    """Return the gradients of A and B for a layer that computes B·(A·x)."""
    rows, hidden, pulled = values
    inner = arithmetic.product(pulled, exact(factors.B))
    of_a = over_rows.product(inner.transposed(), rows)
    return of_a, over_rows.product(pulled.transposed(), hidden)


def _delta_steps(
    factors: Factors, values: Steps, arithmetic: Arithmetic, over_rows: Arithmetic
) -> tuple[Approximation, Approximation]:
    """Return the gradients of A and B for a layer that computes (B·A)·x."""
    rows, _, pulled = values
    formed = arithmetic.product(pulled.transposed(), rows)
    of_a = over_rows.product(exact(factors.B).transposed(), formed)
    return of_a, over_rows.product(formed, exact(factors.A).transposed())


def _dora_steps(
    weight: Array,
    factors: Factors,
    values: tuple[Approximation, Approximation, Approximation, Approximation],
    arithmetic: Arithmetic,
) -> tuple[Approximation, Array]:
    """Return c·(s·g) for DoRA, and the bound on the gradient of its magnitude."""
    g, scaled, hidden, bare = values
    combined = arithmetic.add(exact(weight), approximate_delta(factors, arithmetic))
    norms = arithmetic.row_norms(combined).column().transposed()
    magnitude = exact(np.asarray(factors.magnitude))
    pulled = arithmetic.times(arithmetic.divide(magnitude, norms), scaled)
    update = arithmetic.product(hidden, exact(factors.B).transposed())
    of_base = arithmetic.product(_ones(g), arithmetic.times(g, bare))
    of_update = arithmetic.product(_ones(g), arithmetic.times(scaled, update))
    return pulled, arithmetic.divide(arithmetic.add(of_base, of_update), norms).error[0]


def _ones(rows: Approximation) -> Approximation:
    """Return the row (1, n) that sums over n rows."""
    return exact(np.ones((1, len(rows.value))))
