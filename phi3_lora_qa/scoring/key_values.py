"""Keys and values of many rows, each in cells of its own, and the attention that reads them.

transformers' own caches copy everything for each token, and rows of unlike length are padded: the
padding goes through every layer, and has to be masked ever after. Here cell j of a row holds
position j and stays where it is. Rows of any length are read one behind the other as one long row,
each attending to its own cells only, and nothing behind a row's end is ever looked at.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ATTENTION = "phi3_lora_qa"
"""The name under which transformers knows `_attend`."""

_ROWS_AT_ONCE = 16
"""A step looks at so many rows together, up to the end of the longest of them: a batch comes sorted
by length, and reading cells that are masked costs what the others cost."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens that are read in one pass: so many of a row, from a position on."""

    row: int
    start: int
    tokens: int

    @property
    def end(self) -> int:
        """The position behind the last one."""
        return self.start + self.tokens


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What several rows begin with: each layer's keys and values, (heads, tokens, size)."""

    tokens: int = 0
    layers: "tuple[tuple[Tensor, Tensor], ...]" = ()


@contextmanager
def own_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Let a model attend to `KeyValues`, which no other attention can read."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attend)
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "config")]
    configs = {id(module.config): module.config for module in modules}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name


class KeyValues:
    """The cells, with the method that transformers' models call on a cache.

    Args:
        rows: How many there is room for.
        longest: The most positions of a row.
        window: So many positions a token sees, itself included; None for all before it.
    """

    def __init__(self, rows: int, longest: int, window: int | None = None) -> None:
        self.rows, self.longest, self.window = rows, longest, window
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.spans: Sequence[Span] = ()
        self._masks: dict[tuple[int, int], Tensor | None] = {}
        self._seen: Any = None

    def aim(self, spans: Sequence[Span]) -> None:
        """Say what the next pass reads: spans one behind the other, in one row of tokens."""
        self.spans, self._seen = spans, None

    def aim_step(self, positions: "Tensor") -> None:
        """Say that the next pass reads one token of each of the first rows, (n, 1) of them.

        Args:
            positions: Theirs, (n,), int64.
        """
        import torch

        self.spans = ()
        seen = []
        for some in positions.split(_ROWS_AT_ONCE):
            behind = some[:, None] - torch.arange(int(some.max()) + 1)
            mask = behind >= 0
            if self.window is not None:
                mask &= behind < self.window
            seen.append(mask[:, None, None, :])
        self._seen = (torch.arange(len(positions)), positions, seen)

    def update(
        self, keys: "Tensor", values: "Tensor", layer: int, *_: object, **__: object
    ) -> "tuple[Any, Any]":
        """Write what a layer made of the tokens; return what `_attend` then reads."""
        held = self._layer(layer, keys)
        for cells, new in zip(held, (keys, values), strict=True):
            if self.spans:
                at = 0
                for span in self.spans:
                    cells[span.row, :, span.start : span.end] = new[0, :, at : at + span.tokens]
                    at += span.tokens
            else:
                rows, positions, _ = self._seen
                cells[rows, :, positions] = new[:, :, 0]
        return _Held(self, layer), None

    def attend(self, query: "Tensor", layer: int, scaling: float | None) -> "Tensor":
        """Return what the queries find, (batch, tokens, heads, size); they come heads first."""
        if self.spans:
            return self._attend_spans(query, layer, scaling)
        return self._attend_step(query, layer, scaling)

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
                for keys, values in self.layers
            ),
        )

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of another."""
        for layer in self.layers:
            for cells in layer:
                cells[target] = cells[source]

    def _layer(self, layer: int, like: "Tensor") -> "tuple[Tensor, Tensor]":
        if layer == len(self.layers):
            shape = (self.rows, like.shape[-3], self.longest, like.shape[-1])
            # Zeros: a masked cell is multiplied by 0, which would not help against NaN.
            self.layers.append((like.new_zeros(shape), like.new_zeros(shape)))
        return self.layers[layer]

    def _attend_spans(self, query: "Tensor", layer: int, scaling: float | None) -> "Tensor":
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        keys, values = self.layers[layer]
        groups = query.shape[1] // keys.shape[1]
        parts, at = [], 0
        for span in self.spans:
            own = query[:, :, at : at + span.tokens]
            at += span.tokens
            mask = self._mask(span)
            # Copied for each head of a group: the kernel for the CPU knows no groups.
            seen = [
                cells[span.row, None, :, : span.end].repeat_interleave(groups, dim=1)
                for cells in (keys, values)
            ]
            causal = mask is None and span.tokens > 1
            parts.append(
                scaled_dot_product_attention(
                    own, seen[0], seen[1], attn_mask=mask, is_causal=causal, scale=scaling
                )
            )
        return torch.cat(parts, dim=2).transpose(1, 2)

    def _mask(self, span: Span) -> "Tensor | None":
        """What a span sees, (tokens, end); None where that is simply all before."""
        import torch

        if span.start == 0 and (self.window is None or span.end <= self.window):
            return None
        shape = (span.start, span.tokens)
        if shape not in self._masks:
            behind = torch.arange(span.start, span.end)[:, None] - torch.arange(span.end)
            seen = behind >= 0
            self._masks[shape] = seen if self.window is None else seen & (behind < self.window)
        return self._masks[shape]

    def _attend_step(self, query: "Tensor", layer: int, scaling: float | None) -> "Tensor":
        """One token a row: the heads that share keys become the rows of one small product."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        rows, _, masks = self._seen
        keys, values = self.layers[layer]
        heads = keys.shape[1]
        grouped = query.reshape(len(rows), heads, query.shape[1] // heads, query.shape[-1])
        found, start = [], 0
        for mask in masks:
            some, end = slice(start, start + len(mask)), mask.shape[-1]
            found.append(
                scaled_dot_product_attention(
                    grouped[some],
                    keys[some, :, :end],
                    values[some, :, :end],
                    attn_mask=mask,
                    scale=scaling,
                )
            )
            start += len(mask)
        return torch.cat(found).reshape(len(rows), 1, query.shape[1], query.shape[-1])


@dataclass(frozen=True)
class _Held:
    """Stands for a layer's keys on their way through transformers to `_attend`."""

    store: KeyValues
    layer: int


def _attend(
    module: object,
    query: "Tensor",
    key: _Held,
    *_: object,
    scaling: float | None = None,
    **__: object,
) -> "tuple[Tensor, None]":
    return key.store.attend(query, key.layer, scaling), None
