"""One module's LoRA as factors, and what it must compute: delta, merged weight, output."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi3_lora_qa.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Factors:
    """One module's LoRA as read from the adapter's file.

    Attributes:
        A: lora_A, float64 (r, in).
        B: lora_B, float64 (out, r).
        scaling: s, see `phi3_lora_qa.lora.scaling_of`.
        magnitude: DoRA's m, float64 (out,); None without DoRA.
        bias: lora_B's own bias, float64 (out,), added times s; None without lora_bias.
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
    """Return delta = s · B·A, float64 (out, in) (Hu et al. 2021, eq. 3).

    Raises:
        InputError: The factors do not fit each other, or are not float64.
    """
    require_factors(factors)
    product: Array = factors.scaling * (factors.B @ factors.A)
    return product


def merged_weight(weight: Array, factors: Factors) -> Array:
    """Return W + delta, or DoRA's m · (W + delta) / ‖W + delta‖ with norms over each output row.

    Args:
        weight: W, float64 (out, in).
        factors: The module's LoRA.

    Source: Liu et al. 2024 (arXiv 2402.09353), eq. 5, in the row layout of torch.nn.Linear.
    """
    require_fit(weight, factors)
    combined = weight + delta(factors)
    if factors.magnitude is None:
        return combined
    norms = np.linalg.norm(combined, axis=1)
    scaled: Array = combined * (factors.magnitude / norms)[:, None]
    return scaled


def output(weight: Array, factors: Factors, x: Array) -> Array:
    """Return W'·x + s · b for inputs x, float64 (..., in) to (..., out), without the base's bias.

    W' is `merged_weight`; b is lora_B's bias, zero without lora_bias.
    """
    require_fit(weight, factors, x)
    y: Array = x @ merged_weight(weight, factors).T
    return y if factors.bias is None else y + factors.scaling * factors.bias


def require_factors(factors: Factors) -> None:
    """Raise InputError for factors that do not fit each other, or are not float64."""
    A, B = factors.A, factors.B
    vectors = [v for v in (factors.magnitude, factors.bias) if v is not None]
    fits = A.ndim == B.ndim == 2 and A.shape[0] == B.shape[1]
    if not fits or any(v.shape != B.shape[:1] for v in vectors):
        shapes = ", ".join(str(v.shape) for v in (A, B, *vectors))
        raise InputError(
            f"arrays of {shapes} are no factors; give A (r, in), B (out, r), and magnitude and "
            "bias as (out,)"
        )
    if any(v.dtype != np.float64 for v in (A, B, *vectors)):
        raise InputError(
            "factors of another dtype than float64 would be computed in it; convert them first, "
            "which changes no value"
        )


def require_fit(weight: Array, factors: Factors, x: Array | None = None) -> None:
    """Raise InputError where a weight or inputs do not belong to the factors."""
    require_factors(factors)
    shape = (factors.B.shape[0], factors.A.shape[1])
    if weight.shape != shape:
        raise InputError(
            f"a weight {weight.shape} does not go with factors for {shape}; give it as (out, in), "
            "transposed if it is stored (in, out)"
        )
    if x is not None and (x.ndim == 0 or x.shape[-1] != shape[1]):
        raise InputError(f"inputs {x.shape} are not (..., {shape[1]}); give them as rows")


def stored(weight: Array, *, fan_in_fan_out: bool) -> Array:
    """Return a weight (out, in) as its layer stores it, and back: transposed for fan_in_fan_out.

    Conv1D of transformers and loralib's fan_in_fan_out keep (in, out). The factors A and B have the
    same shapes either way.
    """
    return weight.T if fan_in_fan_out else weight
