"""Binary floating-point formats: what each can hold, and how far rounding to it moves a number."""

from dataclasses import dataclass

import numpy as np

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora.factors import Array


@dataclass(frozen=True, kw_only=True)
class Format:
    """A binary floating-point format.

    Attributes:
        digits: Bits of the significand, the leading one included.
        lowest: The exponent of the smallest normal number, 2**lowest.
        highest: The exponent of the largest binade, [2**highest, 2**(highest + 1)).
        flushes: Whether hardware may replace results below 2**lowest by zero. float16 is kept whole
            everywhere, as much of its use lies there.
    """

    digits: int
    lowest: int
    highest: int
    flushes: bool = True

    @property
    def u(self) -> float:
        """The unit roundoff: half the distance from 1 to the next number."""
        return 2.0**-self.digits

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return 2.0**self.highest * (2.0 - 2.0 * self.u)

    @property
    def floor(self) -> float:
        """What one operation may lose by underflow.

        Half the smallest subnormal, or the smallest normal where that may be flushed to zero.
        """
        return 2.0 ** (self.lowest if self.flushes else self.lowest - self.digits)


FORMATS = {
    "float64": Format(digits=53, lowest=-1022, highest=1023),
    "float32": Format(digits=24, lowest=-126, highest=127),
    "float16": Format(digits=11, lowest=-14, highest=15, flushes=False),
    "bfloat16": Format(digits=8, lowest=-126, highest=127),
}


def format_of(dtype: str) -> Format:
    """Return a dtype's format; raises InputError for a name that is not in FORMATS."""
    if dtype not in FORMATS:
        raise InputError(f"{dtype!r} has no rounding model; name one of {', '.join(FORMATS)}")
    return FORMATS[dtype]


def gamma(n: "float | Array", dtype: str) -> Array:
    """Return gamma_n = n·u / (1 - n·u); infinite where n·u >= 1, since nothing is promised then."""
    nu = np.asarray(n, dtype=np.float64) * format_of(dtype).u
    with np.errstate(divide="ignore"):
        return np.where(nu < 1.0, nu / (1.0 - nu), np.inf)


def round_to(values: Array, dtype: str) -> Array:
    """Return the nearest numbers of ``dtype`` (ties to even), as float64; infinite beyond it."""
    form = format_of(dtype)
    exponents = np.frexp(values)[1].astype(np.int64)
    # Below the smallest normal number the spacing stays what it is there.
    quantum = np.ldexp(1.0, np.maximum(exponents, form.lowest + 1) - form.digits)
    nearest: Array = np.rint(values / quantum) * quantum
    return np.where(np.abs(nearest) > form.largest, np.copysign(np.inf, values), nearest)


def ratios(error: Array, bound: Array) -> Array:
    """Return error / bound elementwise, 0 where there is no error.

    A NaN counts as infinitely far: as NaN the next, smaller ratio would replace it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(error == 0, 0.0, error / bound)
    return np.where(np.isnan(found), np.inf, found)
