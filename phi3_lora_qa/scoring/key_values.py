"""Keys and values of many rows at once, each row in cells of its own: what decoding reads.

transformers' own caches copy everything for each token, and pad rows of unlike length with cells
that have to be masked ever after. Here cell j of a row holds position j and stays where it is: a
row is cut short by forgetting where it ended, as nothing behind its end is ever looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Rows = slice | Sequence[int]
"""A slice is read in place; a list of rows, which may name one twice, from a copy."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What several rows begin with: each layer's keys and values, (heads, tokens, size)."""

    tokens: int = 0
    layers: "tuple[tuple[Tensor, Tensor], ...]" = ()


class KeyValues:
    """The cells, with the method that transformers' models call on a cache.

    Args:
        rows: How many there is room for.
        longest: The most positions of a row; one more cell takes what padding writes.
    """

    def __init__(self, rows: int, longest: int) -> None:
        self.rows, self.longest = rows, longest
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._read: Rows = slice(0, 0)
        self._written: Any = None
        self._cells: Any = None
        self._keep = True
        self._width = 0

    def aim(self, rows: Rows, cells: "Tensor", width: int, *, keep: bool = True) -> None:
        """Say where the next forward pass writes.

        Args:
            rows: The n rows that the pass is for.
            cells: The cell of each token, (n, t), int64.
            width: So many cells of each row are looked at, from the first.
            keep: Whether the rows get what is written, or only this pass sees it.
        """
        import torch

        self._read, self._cells, self._width, self._keep = rows, cells, width, keep
        own = list(range(*rows.indices(self.rows)) if isinstance(rows, slice) else rows)
        self._written = torch.tensor(own)[:, None]

    def update(
        self, keys: "Tensor", values: "Tensor", layer: int, *_: object, **__: object
    ) -> "tuple[Tensor, Tensor]":
        """Write what a layer made of the tokens, (n, heads, t, size); return what it attends to."""
        held = self._layer(layer, keys)
        return self._exchange(held[0], keys), self._exchange(held[1], values)

    def begin(self, row: int, prefix: Prefix) -> None:
        """Give a row its first cells, which were computed before."""
        for layer, known in enumerate(prefix.layers):
            for cells, first in zip(self._layer(layer, known[0]), known, strict=True):
                cells[row, :, : prefix.tokens] = first

    def prefix(self, row: int, tokens: int) -> Prefix:
        """Return a copy of a row's first cells."""
        return Prefix(
            tokens=tokens,
            layers=tuple(
                (keys[row, :, :tokens].clone(), values[row, :, :tokens].clone())
                for keys, values in self._layers
            ),
        )

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of another."""
        for layer in self._layers:
            for cells in layer:
                cells[target] = cells[source]

    def _layer(self, layer: int, like: "Tensor") -> "tuple[Tensor, Tensor]":
        if layer == len(self._layers):
            shape = (self.rows, like.shape[-3], self.longest + 1, like.shape[-1])
            # Zeros: a masked cell is multiplied by 0, which would not help against NaN.
            self._layers.append((like.new_zeros(shape), like.new_zeros(shape)))
        return self._layers[layer]

    def _exchange(self, cells: "Tensor", new: "Tensor") -> "Tensor":
        import torch

        new = new.transpose(1, 2)  # (n, t, heads, size), the form of what is indexed so
        if self._keep:
            cells[self._written, :, self._cells] = new
            return cells[self._read, :, : self._width]
        copy = cells[self._written[:, 0], :, : self._width]
        copy[torch.arange(len(copy))[:, None], :, self._cells] = new
        return copy
