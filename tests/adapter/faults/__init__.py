"""Faults of adapters, each with the rule that must find it.

A fault is a function that changes an `Adapter`. It is put into every healthy variant that it fits,
at the first, a middle or the last tensor of its kind, with and without a base.
"""

from tests.adapter.adapters import Adapter
from tests.adapter.faults.base import BASE
from tests.adapter.faults.config import CONFIG
from tests.adapter.faults.files import FILES
from tests.adapter.faults.tensors import TENSORS
from tests.adapter.faults.values import VALUES

PLACES = (0.0, 0.5, 1.0)
FAULTS = FILES | CONFIG | TENSORS | VALUES | BASE


def cases(fault: str, variants: list[str]) -> list[tuple[str, float, bool]]:
    """Return every (variant, place, with a base) that a fault fits."""
    found = FAULTS[fault]
    return [
        (variant, place, based)
        for variant in variants
        if found.fits(variant)
        for place in (PLACES if found.places else (0.0,))
        for based in ((True,) if found.base_only else (False, True))
        if not (based and found.rule == "tensors-phi3-sizes")
    ]


def spoil(adapter: Adapter, name: str, place: float) -> Adapter:
    """Put a fault into an adapter, and return the same adapter."""
    FAULTS[name].apply(adapter, place)
    return adapter
