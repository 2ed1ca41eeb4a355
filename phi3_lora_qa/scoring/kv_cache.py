"""Keys and values of many rows, each in cells of its own, and the attention that reads them.

transformers' own caches copy everything for each token, and rows of unlike length are padded: the
padding goes through every layer, and has to be masked ever after. Here cell j of a row holds
position j and stays where it is, and a row has hardly more cells than it needs. Rows of any length
are read one behind the other as one long row, each attending to its own cells only, and nothing
behind a row's end is ever looked at.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ATTENTION = "phi3_lora_qa"
"""The name under which transformers knows `_attend`."""

_ROWS_AT_ONCE = 16
"""So many rows have as many cells each as the longest of them needs, and a step looks at them
together: a batch comes sorted by length, so that few cells are empty or masked."""


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


def run_decoder(
    model: "PreTrainedModel", store: "KeyValues", ids: "Tensor", positions: "Tensor"
) -> "Tensor":
    """Read tokens by a model's decoder, with the keys and values of `store`, which is aimed.

    Args:
        model: A causal language model without PEFT's outer shell.
        store: What was read before, and where the tokens' keys and values go.
        ids: The tokens, int64 (rows, tokens).
        positions: Theirs in their rows, int64 (rows, tokens).

    Returns:
        The last hidden states, (rows, tokens, hidden size).
    """
    decoder: Any = model.get_decoder()
    # transformers calls it cache from 5.24 on.
    renamed = "cache" in signature(decoder.forward).parameters
    known = {"cache" if renamed else "past_key_values": store}
    with own_attention(model):
        found = decoder(
            input_ids=ids.to(model.device),
            position_ids=positions.to(model.device),
            use_cache=True,
            **known,
        )
    hidden: Tensor = found.last_hidden_state
    return hidden


class KeyValues:
    """The cells, with the method that transformers' models call on a cache.

    Args:
        longest: The most positions of each row, falling from row to row.
        window: So many positions a token sees, itself included; None for all before it.
    """

    def __init__(self, longest: Sequence[int], window: int | None = None) -> None:
        self.rows, self.window = len(longest), window
        # Each layer's keys and values, (heads, cells, size): the rows' cells one after the other.
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.spans: Sequence[Span] = ()
        self._cells = [longest[row - row % _ROWS_AT_ONCE] for row in range(self.rows)]
        self._starts = [0, *accumulate(self._cells)]
        self._masks: dict[tuple[int, int], Tensor | None] = {}
        self._step: _Step | None = None

    def aim(self, spans: Sequence[Span]) -> None:
        """Say what the next pass reads: spans one behind the other, in one row of tokens."""
        self.spans, self._step = spans, None

    def aim_step(self, positions: Sequence[int]) -> None:
        """Say that the next pass reads one token of each of the first rows, (n, 1) of them.

        Args:
            positions: Theirs, of n rows.
        """
        import torch

        masks = []
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            some = torch.tensor(positions[start : start + _ROWS_AT_ONCE])
            behind = some[:, None] - torch.arange(int(some.max()) + 1)
            mask = behind >= 0
            if self.window is not None:
                mask &= behind < self.window
            masks.append(mask[:, None, None, :])
        cells = [start + at for start, at in zip(self._starts, positions, strict=False)]
        self.spans, self._step = (), _Step(torch.tensor(cells), masks)

    def get_seq_length(self, layer: int = 0) -> int:
        """Return 0, which models of transformers 5.3 ask for and do not use."""
        return 0

    def update(
        self, keys: "Tensor", values: "Tensor", layer: int, *_: object, **__: object
    ) -> "tuple[Any, Any]":
        """Write what a layer made of the tokens; return what `_attend` then reads."""
        for cells, new in zip(self._layer(layer, keys), (keys, values), strict=True):
            if self._step is not None:
                cells.index_copy_(1, self._step.cells, new[:, :, 0].transpose(0, 1))
                continue
            at = 0
            for span in self.spans:
                self._row(cells, span.row)[:, span.start : span.end] = new[
                    0, :, at : at + span.tokens
                ]
                at += span.tokens
        return _Held(self, layer), None

    def attend(self, query: "Tensor", layer: int, scaling: float | None) -> "Tensor":
        """Return what the queries find, (batch, tokens, heads, size); they come heads first."""
        if self._step is None:
            return self._attend_spans(query, layer, scaling)
        return self._attend_step(self._step, query, layer, scaling)

    def begin(self, row: int, prefix: Prefix) -> None:
        """Give a row its first cells, which were computed before."""
        for layer, known in enumerate(prefix.layers):
            for cells, first in zip(self._layer(layer, known[0]), known, strict=True):
                self._row(cells, row)[:, : prefix.tokens] = first

    def prefix(self, row: int, tokens: int) -> Prefix:
        """Return a copy of a row's first cells."""
        return Prefix(
            tokens=tokens,
            layers=tuple(
                (
                    self._row(keys, row)[:, :tokens].clone(),
                    self._row(values, row)[:, :tokens].clone(),
                )
                for keys, values in self.layers
            ),
        )

    def move(self, source: int, target: int) -> None:
        """Put a row in the place of one before it."""
        for layer in self.layers:
            for cells in layer:
                moved = self._row(cells, source)
                self._row(cells, target)[:, : moved.shape[1]] = moved

    def _layer(self, layer: int, like: "Tensor") -> "tuple[Tensor, Tensor]":
        if layer == len(self.layers):
            shape = (like.shape[-3], self._starts[-1], like.shape[-1])
            # Zeros: a masked cell is multiplied by 0, which would not help against NaN.
            self.layers.append((like.new_zeros(shape), like.new_zeros(shape)))
        return self.layers[layer]

    def _row(self, cells: "Tensor", row: int) -> "Tensor":
        return cells[:, self._starts[row] : self._starts[row + 1]]

    def _attend_spans(self, query: "Tensor", layer: int, scaling: float | None) -> "Tensor":
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        parts, at = [], 0
        for span in self.spans:
            own = query[:, :, at : at + span.tokens]
            at += span.tokens
            mask = self._mask(span)
            keys, values = (
                self._row(own, span.row)[None, :, : span.end] for own in self.layers[layer]
            )
            causal = mask is None and span.tokens > 1
            parts.append(
                scaled_dot_product_attention(
                    own,
                    keys,
                    values,
                    attn_mask=mask,
                    is_causal=causal,
                    scale=scaling,
                    enable_gqa=True,
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

    def _attend_step(
        self, step: "_Step", query: "Tensor", layer: int, scaling: float | None
    ) -> "Tensor":
        """One token a row: the heads that share keys become the rows of one small product."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        keys, values = self.layers[layer]
        heads, _, size = keys.shape
        grouped = query.reshape(len(query), heads, query.shape[1] // heads, size)
        found, row = [], 0
        for mask in step.masks:
            rows, end = len(mask), mask.shape[-1]
            own = slice(self._starts[row], self._starts[row + rows])
            keys_seen, values_seen = (
                cells[:, own].view(heads, rows, -1, size).transpose(0, 1)[:, :, :end]
                for cells in (keys, values)
            )
            found.append(
                scaled_dot_product_attention(
                    grouped[row : row + rows],
                    keys_seen,
                    values_seen,
                    attn_mask=mask,
                    scale=scaling,
                )
            )
            row += rows
        return torch.cat(found).reshape(len(query), 1, query.shape[1], size)


@dataclass(frozen=True)
class _Step:
    """Where the next tokens go, and what each block of rows sees, (rows, 1, 1, positions)."""

    cells: "Tensor"
    masks: "Sequence[Tensor]"


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
