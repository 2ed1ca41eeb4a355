"""Compares computed values with references: no error exceeds its bound, and bounds are tight."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from phi3_lora_qa.lora import Array

Measurement = tuple[str, Array, Array, Array]
"""The quantity, the computed values, the reference and the bound."""

Oracle = Callable[[str], Iterator[Measurement]]
"""Yields the measurements of all its cases in a dtype."""

LOOSEST_MEDIAN = 100.0


@dataclass
class Record:
    """The cases of one quantity: their number, and how close errors came to their bounds."""

    cases: int = 0
    worst: float = 0.0
    looseness: list[float] = field(default_factory=list)

    def add(self, computed: Array, reference: Array, bound: Array) -> None:
        assert computed.shape == reference.shape == bound.shape
        finite = np.isfinite(bound)
        self.cases += 1
        if not finite.any():
            return
        error, allowed = np.abs(computed - reference)[finite], bound[finite]
        assert not np.isnan(error).any(), "a NaN where the bound is finite"
        assert (allowed >= 0).all()
        ratio = np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)
        largest = float(ratio.max())
        self.worst = max(self.worst, largest)
        exact = not allowed.any()
        self.looseness.append(1.0 if exact else 1.0 / largest if largest > 0 else np.inf)


def measure(oracle: Oracle, dtype: str) -> dict[str, Record]:
    """Run an oracle over all its cases."""
    records: dict[str, Record] = defaultdict(Record)
    with np.errstate(all="ignore"):
        for name, computed, reference, bound in oracle(dtype):
            records[name].add(computed, reference, bound)
    return records


def verdict(records: dict[str, Record], least: int) -> list[str]:
    """Return the failures: bounds that were exceeded, are loose, or are mostly infinite."""
    faults = []
    for name, record in records.items():
        median, bounded = float(np.median(record.looseness)), len(record.looseness)
        print(
            f"{name}: {bounded} of {record.cases} cases bounded, largest error {record.worst:.3f} "
            f"of its bound, median bound {median:.2f} times the largest error"
        )
        if record.worst > 1.0:
            faults.append(f"{name}: an error is {record.worst:.4g} times its bound")
        if median > LOOSEST_MEDIAN:
            faults.append(f"{name}: the median bound is {median:.4g} times the largest error")
        if record.cases < least or bounded < 0.9 * record.cases:
            faults.append(f"{name}: {bounded} of {record.cases} cases have a bound, want {least}")
    return faults
