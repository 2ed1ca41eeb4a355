"""The repr of drawn values: small arrays in full and ready to copy, large ones as a summary."""

from dataclasses import fields, is_dataclass

import numpy as np

_SHOWN_ENTRIES = 36


class CompactRepr:
    """Mixin that gives a dataclass the repr of `compact_repr`."""

    def __repr__(self) -> str:
        return compact_repr(self)


def compact_repr(value: object) -> str:
    """Return the repr of a value in a case; ``array`` in it is numpy's."""
    if isinstance(value, np.ndarray):
        if value.size <= _SHOWN_ENTRIES:
            return f"array({value.tolist()})"
        return f"<array {value.shape} {value.dtype}, {value.min():.3g} to {value.max():.3g}>"
    if is_dataclass(value) and not isinstance(value, type):
        inner = (
            f"{field.name}={compact_repr(getattr(value, field.name))}" for field in fields(value)
        )
        return f"{type(value).__name__}({', '.join(inner)})"
    return repr(value)
