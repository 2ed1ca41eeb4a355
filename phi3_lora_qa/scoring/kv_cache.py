"""A KV cache of many rows of different lengths, and the attention function that reads it.

transformers' own caches copy everything for each token, and they pad rows to one length; the
padding passes through every layer and must be masked. Here, slot j of a row holds position j and
never moves, and a row has hardly more slots than it needs. Rows of any length are read one after
another as a single long row in which each row attends to its own slots only. Nothing after the end
of a row is ever read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

ATTENTION = "phi3_lora_qa"
"""The name under which `_attend` is registered with transformers."""

_ROWS_PER_BLOCK = 16
"""Rows of a block have as many slots as the longest of them needs, and one decoding step reads them
together. Batches are sorted by length, so few slots are unused or masked."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Consecutive tokens of one row that are read in one pass, starting at a position."""

    row: int
    start: int
    tokens: int

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + self.tokens


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A prefix that several rows share: each layer's keys and values, (heads, tokens, size)."""

    tokens: int = 0
    layers: "tuple[tuple[Tensor, Tensor], ...]" = ()


@contextmanager
def _attention_of_kv_cache(model: "PreTrainedModel") -> Iterator[None]:
    """Let a model use the attention function that reads a `KVCache`."""
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
    model: "PreTrainedModel", kv_cache: "KVCache", ids: "Tensor", positions: "Tensor"
) -> "Tensor":
    """Run a model's decoder on tokens, with a KV cache whose spans or step are set.

    Args:
        model: A causal language model without PEFT's outer wrapper.
        kv_cache: The keys and values so far; those of the tokens are added.
        ids: The tokens, int64 (rows, tokens).
        positions: Their positions in their rows, int64 (rows, tokens).

    Returns:
        The last hidden states, (rows, tokens, hidden size).
    """
    decoder: Any = model.get_decoder()
    # transformers 5.24 renamed the argument.
    renamed = "cache" in signature(decoder.forward).parameters
    cache_argument = {"cache" if renamed else "past_key_values": kv_cache}
    with _attention_of_kv_cache(model):
        output = decoder(
            input_ids=ids.to(model.device),
            position_ids=positions.to(model.device),
            use_cache=True,
            **cache_argument,
        )
    hidden: Tensor = output.last_hidden_state
    return hidden


class KVCache:
    """The slots of all rows, with the method that transformers' models call on a cache.

    Args:
        lengths: The most positions of each row, in descending order.
        window: How many positions a token sees, its own included; None for all before it.
    """

    def __init__(self, lengths: Sequence[int], window: int | None = None) -> None:
        self.rows, self.window = len(lengths), window
        # Each layer's keys and values, (heads, slots, size): the rows' slots one after another.
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.spans: Sequence[Span] = ()
        self._slots = [lengths[row - row % _ROWS_PER_BLOCK] for row in range(self.rows)]
        self._starts = [0, *accumulate(self._slots)]
        self._masks: dict[tuple[int, int, str], Tensor] = {}
        self._step: _Step | None = None

    def set_spans(self, spans: Sequence[Span]) -> None:
        """Set what the next pass reads: spans one after another, in one row of tokens."""
        self.spans, self._step = spans, None

    def set_step(self, positions: Sequence[int]) -> None:
        """Set that the next pass reads one token of each of the first n rows, as (n, 1) tokens.

        Args:
            positions: The position of each of these n tokens in its row.
        """
        import torch

        masks = []
        for start in range(0, len(positions), _ROWS_PER_BLOCK):
            block = torch.tensor(positions[start : start + _ROWS_PER_BLOCK])
            distance = block[:, None] - torch.arange(int(block.max()) + 1)
            mask = distance >= 0
            if self.window is not None:
                mask &= distance < self.window
            masks.append(mask[:, None, None, :])
        slots = [start + at for start, at in zip(self._starts, positions, strict=False)]
        self.spans, self._step = (), _Step(torch.tensor(slots), masks)

    def get_seq_length(self, layer: int = 0) -> int:
        """Return 0, which models of transformers 5.3 request and do not use."""
        return 0

    def update(
        self, keys: "Tensor", values: "Tensor", layer: int, *_: object, **__: object
    ) -> "tuple[Any, Any]":
        """Store a layer's keys and values; return the handle that `_attend` receives."""
        for slots, new in zip(self._layer(layer, keys), (keys, values), strict=True):
            if self._step is not None:
                at_rows = self._step.on(new.device).slots
                slots.index_copy_(1, at_rows, new[:, :, 0].transpose(0, 1))
                continue
            at = 0
            for span in self.spans:
                self._row(slots, span.row)[:, span.start : span.end] = new[
                    0, :, at : at + span.tokens
                ]
                at += span.tokens
        return _LayerHandle(self, layer), None

    def attend(self, query: "Tensor", layer: int, scaling: float | None) -> "Tensor":
        """Return the attention's output, (batch, tokens, heads, size).

        Args:
            query: The queries, (batch, heads, tokens, size).
            layer: The layer's index.
            scaling: The factor of the dot products; None for torch's default.
        """
        if self._step is None:
            return self._attend_spans(query, layer, scaling)
        return self._attend_step(self._step.on(query.device), query, layer, scaling)

    def load_prefix(self, row: int, prefix: Prefix) -> None:
        """Fill a row's first slots with a prefix that was computed before."""
        for layer, known in enumerate(prefix.layers):
            for slots, first in zip(self._layer(layer, known[0]), known, strict=True):
                self._row(slots, row)[:, : prefix.tokens] = first

    def copy_prefix(self, row: int, tokens: int) -> Prefix:
        """Return a copy of a row's first slots."""
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

    def move_row(self, source: int, target: int) -> None:
        """Overwrite a row with a later one."""
        for layer in self.layers:
            for slots in layer:
                moved = self._row(slots, source)
                self._row(slots, target)[:, : moved.shape[1]] = moved

    def _layer(self, layer: int, like: "Tensor") -> "tuple[Tensor, Tensor]":
        if layer == len(self.layers):
            shape = (like.shape[-3], self._starts[-1], like.shape[-1])
            # Zeros: a masked slot is multiplied by 0, and a NaN would stay NaN.
            self.layers.append((like.new_zeros(shape), like.new_zeros(shape)))
        return self.layers[layer]

    def _row(self, slots: "Tensor", row: int) -> "Tensor":
        return slots[:, self._starts[row] : self._starts[row + 1]]

    def _attend_spans(self, query: "Tensor", layer: int, scaling: float | None) -> "Tensor":
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        parts, at = [], 0
        for span in self.spans:
            own = query[:, :, at : at + span.tokens]
            at += span.tokens
            mask = self._mask(span, query.device)
            keys, values = (
                self._row(slots, span.row)[None, :, : span.end] for slots in self.layers[layer]
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

    def _mask(self, span: Span, device: "torch.device") -> "Tensor | None":
        """Return what a span's tokens see, (tokens, end); None if the causal mask suffices."""
        import torch

        if span.start == 0 and (self.window is None or span.end <= self.window):
            return None
        shape = (span.start, span.tokens, str(device))
        if shape not in self._masks:
            own = torch.arange(span.start, span.end, device=device)
            distance = own[:, None] - torch.arange(span.end, device=device)
            seen = distance >= 0
            self._masks[shape] = seen if self.window is None else seen & (distance < self.window)
        return self._masks[shape]

    def _attend_step(
        self, step: "_Step", query: "Tensor", layer: int, scaling: float | None
    ) -> "Tensor":
        """Attend from one token per row: heads that share keys become rows of a small product."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        keys, values = self.layers[layer]
        heads, _, size = keys.shape
        grouped = query.reshape(len(query), heads, query.shape[1] // heads, size)
        parts, row = [], 0
        for mask in step.masks:
            rows, end = len(mask), mask.shape[-1]
            own = slice(self._starts[row], self._starts[row + rows])
            keys_seen, values_seen = (
                slots[:, own].view(heads, rows, -1, size).transpose(0, 1)[:, :, :end]
                for slots in (keys, values)
            )
            parts.append(
                scaled_dot_product_attention(
                    grouped[row : row + rows],
                    keys_seen,
                    values_seen,
                    attn_mask=mask,
                    scale=scaling,
                )
            )
            row += rows
        return torch.cat(parts).reshape(len(query), 1, query.shape[1], size)


@dataclass(frozen=True)
class _Step:
    """The slots of the next tokens, and what each block of rows sees, (rows, 1, 1, positions)."""

    slots: "Tensor"
    masks: "Sequence[Tensor]"
    copies: "dict[str, _Step]" = field(default_factory=dict)
    """On other devices: the layers of a model may be on several."""

    def on(self, device: "torch.device") -> "_Step":
        """Return this step with its tensors on a layer's device."""
        if str(device) not in self.copies:
            masks = [mask.to(device) for mask in self.masks]
            self.copies[str(device)] = _Step(self.slots.to(device), masks)
        return self.copies[str(device)]


@dataclass(frozen=True)
class _LayerHandle:
    """Takes the place of a layer's keys on the way through transformers to `_attend`."""

    kv_cache: KVCache
    layer: int


def _attend(
    module: object,
    query: "Tensor",
    key: _LayerHandle,
    *_: object,
    scaling: float | None = None,
    **__: object,
) -> "tuple[Tensor, None]":
    return key.kv_cache.attend(query, key.layer, scaling), None
