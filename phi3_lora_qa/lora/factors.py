"""The LoRA factors of one module, and what they compute: delta, merged weight and output."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The LoRA factors of one module, as read from the adapter's file.

    Attributes:
        A: lora_A, float64 (r, in).
        B: lora_B, float64 (out, r).
        scaling: s, see `phi3_lora_qa.lora.scaling_of`.
        magnitude: DoRA's m, float64 (out,); None without DoRA.
        bias: lora_B's own bias, float64 (out,), added times s; None without lora_bias.

    Example:
        >>> import numpy as np
        >>> Factors(A=np.ones((2, 4)), B=np.zeros((3, 2)), scaling=0.5).rank
        2
    """

    A: Array
    B: Array
    scaling: float
    magnitude: Array | None = None
    bias: Array | None = None

    @property
    def rank(self) -> int:
        """r, the number of rows of A."""
        return int(self.A.shape[0])


def delta(factors: Factors) -> Array:
    """Return delta = s · B·A (Hu et al. 2021, eq. 3).

    Args:
        factors: The module's LoRA factors.

    Returns:
        float64 (out, in).

    Raises:
        InputError: The shapes of the factors do not match, or a factor is not float64.

    Example:
        >>> import numpy as np
        >>> delta(Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=0.5)).tolist()
        [[0.5, 0.5]]
    """
    require_factors(factors)
    product: Array = factors.scaling * (factors.B @ factors.A)
    return product


def merged_weight(weight: Array, factors: Factors) -> Array:
    """Return W + delta, or for DoRA m · (W + delta) / ‖W + delta‖ with the norm of each row.

    Source: Liu et al. 2024 (arXiv 2402.09353), eq. 5, in the row layout of torch.nn.Linear.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.

    Returns:
        float64 (out, in).

    Raises:
        InputError: The weight does not fit the factors, or as `delta`.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=0.5)
        >>> merged_weight(np.array([[1.0, -1.0]]), factors).tolist()
        [[1.5, -0.5]]
    """
    require_fit(weight, factors)
    combined = weight + delta(factors)
    if factors.magnitude is None:
        return combined
    norms = np.linalg.norm(combined, axis=1)
    scaled: Array = combined * (factors.magnitude / norms)[:, None]
    return scaled


def output(weight: Array, factors: Factors, x: Array) -> Array:
    """Return the layer's output W'·x + s · b, without the bias of the base layer.

    W' is `merged_weight`; b is the bias of lora_B, zero without lora_bias.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA factors.
        x: Inputs, float64 (..., in).

    Returns:
        float64 (..., out).

    Raises:
        InputError: The weight or the inputs do not fit the factors, or as `delta`.

    Example:
        >>> import numpy as np
        >>> factors = Factors(A=np.ones((1, 2)), B=np.ones((1, 1)), scaling=0.5)
        >>> output(np.array([[1.0, -1.0]]), factors, np.array([2.0, 1.0])).tolist()
        [2.5]
    """
    require_fit(weight, factors, x)
    y: Array = x @ merged_weight(weight, factors).T
    return y if factors.bias is None else y + factors.scaling * factors.bias


def require_factors(factors: Factors) -> None:
    """Raise InputError unless the factors are float64 and their shapes match."""
    A, B = factors.A, factors.B
    vectors = [v for v in (factors.magnitude, factors.bias) if v is not None]
    fits = A.ndim == B.ndim == 2 and A.shape[0] == B.shape[1]
    if not fits or any(v.shape != B.shape[:1] for v in vectors):
        shapes = ", ".join(str(v.shape) for v in (A, B, *vectors))
        raise InputError(
            f"the shapes of the factors do not match: {shapes}; pass A (r, in), B (out, r), and "
            "magnitude and bias as (out,)"
        )
    if any(v.dtype != np.float64 for v in (A, B, *vectors)):
        raise InputError(
            f"factors must be float64: got {', '.join(str(v.dtype) for v in (A, B, *vectors))}; "
            "convert them first, which changes no value"
        )


def require_fit(weight: Array, factors: Factors, x: Array | None = None) -> None:
    """Raise InputError unless the weight and the inputs fit the factors."""
    require_factors(factors)
    shape = (factors.B.shape[0], factors.A.shape[1])
    if weight.shape != shape:
        raise InputError(
            f"the weight does not fit the factors: {weight.shape} instead of {shape}; pass it as "
            "(out, in), transposed if it is stored (in, out)"
        )
    if x is not None and (x.ndim == 0 or x.shape[-1] != shape[1]):
        raise InputError(
            f"the inputs do not fit the factors: {x.shape} instead of (..., {shape[1]}); "
            "pass them as rows"
        )


def storage_layout(weight: Array, *, fan_in_fan_out: bool) -> Array:
    """Convert a weight between (out, in) and the layout in which its layer stores it.

    transformers' Conv1D and loralib's fan_in_fan_out store (in, out). The conversion is its own
    inverse. A and B have the same shapes in both cases.

    Args:
        weight: float64 (out, in), or (in, out) for the way back.
        fan_in_fan_out: Whether the layer stores the transpose.

    Returns:
        The weight, transposed if ``fan_in_fan_out``; a view.

    Example:
        >>> import numpy as np
        >>> storage_layout(np.zeros((3, 2)), fan_in_fan_out=True).shape
        (2, 3)
    """
    return weight.T if fan_in_fan_out else weight
