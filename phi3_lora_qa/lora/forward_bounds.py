"""Rounding-error bounds on a layer's outputs, unmerged and merged.

The terms and the notation are those of `phi3_lora_qa.lora.weight_bounds`. Inputs are rows (...,
in), as in torch. An embedding lookup is a one-hot row, a convolution a row of `patches`; their
zeros add nothing to the bound. Products by Winograd's or Strassen's method are not covered.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np

from phi3_lora_qa.lora.factors import Array, Factors
from phi3_lora_qa.lora.interval_arithmetic import (
    Approximation,
    Arithmetic,
    DtypeLike,
    arithmetic_of,
    exact,
)
from phi3_lora_qa.lora.weight_bounds import approximate_delta, approximate_gain, approximate_merge


def forward_bound(
    weight: Array, factors: Factors, x: Array, dtype: DtypeLike, base_bias: Array | None = None
) -> Array:
    """Bound |fl(y) - y| for the unmerged y = W·x + s · (B·(A·x) + b).

    W·x + b' errs by gamma_{in+1} · (|W||x| + |b'|) + f(W·x + b'), since a bias may be the first or
    the last summand. h = A·x errs by e_h = gamma_in · |A||x| + f(h), z = B·h by e_z = |B|·e_h +
    gamma_r · |B||h| + f(z), s·z by |s|·e_z + |fl(s) - s|·|z| + f(s·z), and the sum by both errors
    and f(y). The f of a product is zero where v is u. The bias b is added to z.

    With DoRA y = g·(W·x + s·z), g = m/N as in `merge_bound`, is computed as PEFT does it,
    W·x + ((g - 1)·W·x + g·z·s), which also covers g·(W·x) + g·z·s and g·(W·x + s·z).

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        x: Inputs, float64 (..., in).
        dtype: The dtype or `Arithmetic` in which the layer computes.
        base_bias: The base layer's bias b', float64 (out,), which is part of y.

    Returns:
        float64 (..., out); infinite where no bound exists.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.5)
        >>> forward_bound(np.ones((3, 2)), factors, np.ones((4, 2)), "float32").shape
        (4, 3)
    """
    arithmetic = arithmetic_of(dtype)
    y, bare = approximate_base(weight, x, arithmetic, base_bias)
    low_rank = _low_rank(factors, x, arithmetic)
    if factors.magnitude is None:
        y = arithmetic.add(y, arithmetic.scale(low_rank, factors.scaling))
    else:
        combined = arithmetic.add(exact(weight), approximate_delta(factors, arithmetic))
        gain = approximate_gain(combined, factors.magnitude, arithmetic).column().transposed()
        more = arithmetic.times(arithmetic.subtract(gain, exact(np.ones((1, 1)))), bare)
        update = arithmetic.scale(arithmetic.times(gain, low_rank), factors.scaling)
        y = arithmetic.add(y, arithmetic.add(more, update))
    return y.error.reshape(*x.shape[:-1], -1)


def sum_forward_bound(
    weight: Array, adapters: Sequence[Factors], x: Array, dtype: DtypeLike
) -> Array:
    """Bound |fl(y) - y| for y = W·x + Σ s_i · (B_i·(A_i·x) + b_i), several active adapters.

    Each update as in `forward_bound`, added one after another in the given order. DoRA is not
    covered.

    Args:
        weight: W, float64 (out, in).
        adapters: The factors of each adapter.
        x: Inputs, float64 (..., in).
        dtype: The dtype or `Arithmetic` in which the layer computes.

    Returns:
        float64 (..., out); infinite where no bound exists.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.5)
        >>> sum_forward_bound(np.ones((3, 2)), [factors] * 2, np.ones((4, 2)), "float32").shape
        (4, 3)
    """
    arithmetic = arithmetic_of(dtype)
    base = arithmetic.product(exact(x.reshape(-1, x.shape[-1])), exact(weight).transposed())
    updates = [arithmetic.scale(_low_rank(f, x, arithmetic), f.scaling) for f in adapters]
    y = reduce(arithmetic.add, updates, base)
    return y.error.reshape(*x.shape[:-1], -1)


def dense_forward_bound(
    weight: Array, factors: Factors, x: Array, dtype: DtypeLike, base_bias: Array | None = None
) -> Array:
    """Bound |fl(y) - y| for y = W·x + s · (P·x) with P = B·A formed first.

    loralib's MergedLinear computes its output this way.

    P errs by e_P = gamma_r · |B||A| + f(P), and z = P·x by e_P·|x| + gamma_in · |P||x| + f(z); the
    rest is as in `forward_bound`. DoRA and lora_bias are not covered.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        x: Inputs, float64 (..., in).
        dtype: The dtype or `Arithmetic` in which the layer computes.
        base_bias: The base layer's bias, float64 (out,), which is part of y.

    Returns:
        float64 (..., out); infinite where no bound exists.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.5)
        >>> dense_forward_bound(np.ones((3, 2)), factors, np.ones((4, 2)), "float32").shape
        (4, 3)
    """
    arithmetic = arithmetic_of(dtype)
    rows = exact(x.reshape(-1, x.shape[-1]))
    dense = arithmetic.product(exact(factors.B), exact(factors.A))
    update = arithmetic.scale(arithmetic.product(rows, dense.transposed()), factors.scaling)
    base = _affine(exact(weight), _exact_bias(base_bias), x, arithmetic)
    y = arithmetic.add(base, update)
    return y.error.reshape(*x.shape[:-1], -1)


def merged_forward_bound(
    weight: Array, factors: Factors, x: Array, dtype: DtypeLike, base_bias: Array | None = None
) -> Array:
    """Bound |fl(fl(W')·x + b') - y| for a merged layer.

    W' errs by E (`merge_bound`), so W'·x errs by E·|x| + gamma_in · |W'||x| + f(W'·x). A bias
    b' = base_bias + s·b, merged the same way, adds its own error and f(y).

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        x: Inputs, float64 (..., in).
        dtype: The dtype or `Arithmetic` in which the layer computes.
        base_bias: The base layer's bias, float64 (out,), which is part of y.

    Returns:
        float64 (..., out); infinite where no bound exists.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((3, 1)), scaling=0.5)
        >>> merged_forward_bound(np.ones((3, 2)), factors, np.ones((4, 2)), "float32").shape
        (4, 3)
    """
    arithmetic = arithmetic_of(dtype)
    merged = approximate_merge(exact(weight), factors, arithmetic)
    biases = [] if base_bias is None else [exact(base_bias)]
    if factors.bias is not None:
        biases.append(arithmetic.scale(exact(factors.bias), factors.scaling))
    bias = reduce(arithmetic.add, biases) if biases else None
    return _affine(merged, bias, x, arithmetic).error.reshape(*x.shape[:-1], -1)


def approximate_base(
    weight: Array, x: Array, arithmetic: Arithmetic, base_bias: Array | None = None
) -> tuple[Approximation, Approximation]:
    """Return W·x + b' for rows of x, and the same with b' subtracted again, as PEFT's DoRA does."""
    y = _affine(exact(weight), _exact_bias(base_bias), x, arithmetic)
    return y, y if base_bias is None else arithmetic.subtract(y, exact(base_bias))


def _affine(
    weight: Approximation, bias: Approximation | None, x: Array, arithmetic: Arithmetic
) -> Approximation:
    """Return W·x + b' for rows of x as one inner product: the bias is one more column, times 1."""
    rows = x.reshape(-1, x.shape[-1])
    if bias is not None:
        rows = np.hstack([rows, np.ones((len(rows), 1))])
        weight = Approximation(
            value=np.column_stack([weight.value, bias.value]),
            error=np.column_stack([weight.error, bias.error]),
        )
    return arithmetic.product(exact(rows), weight.transposed())


def _exact_bias(bias: Array | None) -> Approximation | None:
    return None if bias is None else exact(bias)


def _low_rank(factors: Factors, x: Array, arithmetic: Arithmetic) -> Approximation:
    """Return B·(A·x) + b for the rows of x, which are first cast to the adapter's dtype."""
    rows = arithmetic.cast(x.reshape(-1, x.shape[-1]))
    h = arithmetic.product(rows, exact(factors.A).transposed())
    z = arithmetic.product(h, exact(factors.B).transposed())
    return z if factors.bias is None else arithmetic.add(z, exact(factors.bias))
