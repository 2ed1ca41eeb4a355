"""Binary floating-point formats: their range, and how far rounding to them moves a number."""

from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array


@dataclass(frozen=True, kw_only=True)
class Format:
    """A binary floating-point format.

    Attributes:
        significand_bits: Bits of the significand, including the leading one.
        min_exponent: The exponent of the smallest normal number, 2**min_exponent.
        max_exponent: The exponent of the largest binade, [2**max_exponent, 2**(max_exponent + 1)).
        flushes_subnormals: Whether hardware may replace results below 2**min_exponent by zero. No
            hardware does so for float16, since subnormals are a large part of its range.

    Example:
        >>> FORMATS["float16"].largest
        65504.0
    """

    significand_bits: int
    min_exponent: int
    max_exponent: int
    flushes_subnormals: bool = True

    @property
    def unit_roundoff(self) -> float:
        """u, half the distance from 1 to the next number."""
        return 2.0**-self.significand_bits

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return 2.0**self.max_exponent * (2.0 - 2.0 * self.unit_roundoff)

    @property
    def underflow_error(self) -> float:
        """The most that one operation may lose by underflow.

        Half the smallest subnormal, or the smallest normal number where subnormals may be flushed
        to zero.
        """
        return 2.0 ** (
            self.min_exponent
            if self.flushes_subnormals
            else self.min_exponent - self.significand_bits
        )


FORMATS = {
    "float64": Format(significand_bits=53, min_exponent=-1022, max_exponent=1023),
    "float32": Format(significand_bits=24, min_exponent=-126, max_exponent=127),
    "float16": Format(
        significand_bits=11, min_exponent=-14, max_exponent=15, flushes_subnormals=False
    ),
    "bfloat16": Format(significand_bits=8, min_exponent=-126, max_exponent=127),
}


def format_of(dtype: str) -> Format:
    """Return the floating-point format of a dtype.

    Args:
        dtype: A name in `FORMATS`, such as "bfloat16".

    Returns:
        The format.

    Raises:
        InputError: The name is not in `FORMATS`.

    Example:
        >>> format_of("bfloat16").unit_roundoff
        0.00390625
    """
    if dtype not in FORMATS:
        raise InputError(f"unknown dtype: {dtype!r}; use one of {', '.join(FORMATS)}")
    return FORMATS[dtype]


def gamma(n: "float | Array", dtype: str) -> Array:
    """Return gamma_n = n·u / (1 - n·u), or infinity where n·u >= 1.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.

    Args:
        n: The number of roundings, a scalar or an array.
        dtype: A name in `FORMATS`, which gives u.

    Returns:
        float64, of the shape of ``n``.

    Raises:
        InputError: The dtype is not in `FORMATS`.

    Example:
        >>> float(gamma(256, "bfloat16"))
        inf
    """
    nu = np.asarray(n, dtype=np.float64) * format_of(dtype).unit_roundoff
    with np.errstate(divide="ignore"):
        return np.where(nu < 1.0, nu / (1.0 - nu), np.inf)


def round_to(values: Array, dtype: str) -> Array:
    """Round values to the nearest numbers of a format, ties to even; infinite beyond its range.

    Args:
        values: float64, of any shape.
        dtype: A name in `FORMATS`.

    Returns:
        float64, of the same shape.

    Raises:
        InputError: The dtype is not in `FORMATS`.

    Example:
        >>> import numpy as np
        >>> round_to(np.array([1.001, 1e6]), "float16").tolist()
        [1.0009765625, inf]
    """
    form = format_of(dtype)
    exponents = np.frexp(values)[1].astype(np.int64)
    # Subnormal numbers have the spacing of the smallest normal number.
    quantum = np.ldexp(1.0, np.maximum(exponents, form.min_exponent + 1) - form.significand_bits)
    nearest: Array = np.rint(values / quantum) * quantum
    return np.where(np.abs(nearest) > form.largest, np.copysign(np.inf, values), nearest)


def ratios(error: Array, bound: Array) -> Array:
    """Return error / bound elementwise, 0 where the error is 0.

    A NaN counts as infinity, because a later maximum would otherwise drop it.

    Args:
        error: float64, of any shape.
        bound: float64, of the same shape.

    Returns:
        float64, of the same shape; a value above 1 means that the bound is exceeded.

    Example:
        >>> import numpy as np
        >>> ratios(np.array([0.0, 1.0, np.nan]), np.array([0.0, 2.0, 1.0])).tolist()
        [0.0, 0.5, inf]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(error == 0, 0.0, error / bound)
    return np.where(np.isnan(found), np.inf, found)
