"""Each token attends to the earlier tokens of its own row, and to nothing else."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.scoring.kv_cache import KVCache, Span

HEADS, GROUPS, SIZE = 2, 3, 4


def random_tensor(tokens: int, heads: int = HEADS) -> Any:
    import torch

    return torch.randn(1, heads, tokens, SIZE, dtype=torch.float64)


def plain(query: Any, keys: Any, values: Any, window: int | None) -> Any:
    """Return the attention of a row's last tokens, (heads, tokens, size), written out."""
    import torch

    tokens, end = query.shape[1], keys.shape[1]
    distance = torch.arange(end - tokens, end)[:, None] - torch.arange(end)
    seen = (distance >= 0) & (distance < (window or end))
    keys, values = (t.repeat_interleave(GROUPS, 0) for t in (keys, values))
    logits = (query @ keys.transpose(1, 2)) * 0.3
    return logits.masked_fill(~seen, -torch.inf).softmax(-1) @ values


class Rows:
    """A KV cache, and a list of keys and values for each row to compare it with."""

    def __init__(self, lengths: Sequence[int], window: int | None) -> None:
        rows = len(lengths)
        self.cache = KVCache(lengths, window)
        self.known = {row: (random_tensor(0)[0], random_tensor(0)[0]) for row in range(rows)}
        self.window = window

    def read(self, lengths: dict[int, int]) -> None:
        """Read further tokens of rows, by the rows' numbers; compare everything."""
        import torch

        spans = [
            Span(row=row, start=self.known[row][0].shape[1], tokens=tokens)
            for row, tokens in lengths.items()
        ]
        total = sum(lengths.values())
        query, keys, values = (
            random_tensor(total, HEADS * GROUPS),
            random_tensor(total),
            random_tensor(total),
        )
        self.cache.set_spans(spans)
        handle, _ = self.cache.update(keys, values, 0)
        found = self.cache.attend(query, handle.layer, 0.3)
        at = 0
        for span in spans:
            own = slice(at, at := at + span.tokens)
            self.known[span.row] = tuple(  # type: ignore[assignment]
                torch.cat((before, new[0, :, own]), 1)
                for before, new in zip(self.known[span.row], (keys, values), strict=True)
            )
            expected = plain(query[0, :, own], *self.known[span.row], self.window)
            torch.testing.assert_close(found[0, own], expected.transpose(0, 1))

    def step(self, rows: int) -> None:
        """Read one further token of each of the first rows; compare everything."""
        import torch

        query, keys, values = (
            torch.randn(rows, heads, 1, SIZE, dtype=torch.float64)
            for heads in (HEADS * GROUPS, HEADS, HEADS)
        )
        ends = [self.known[row][0].shape[1] for row in range(rows)]
        self.cache.set_step(ends)
        handle, _ = self.cache.update(keys, values, 0)
        found = self.cache.attend(query, handle.layer, 0.3)
        for row in range(rows):
            own = (
                torch.cat((b, n[row]), 1)
                for b, n in zip(self.known[row], (keys, values), strict=True)
            )
            self.known[row] = tuple(own)  # type: ignore[assignment]
            expected = plain(query[row], *self.known[row], self.window)
            torch.testing.assert_close(found[row], expected.transpose(0, 1))

    def cut(self, row: int, length: int) -> None:
        """Drop the end of a row."""
        keys, values = self.known[row]
        self.known[row] = keys[:, :length], values[:, :length]


@pytest.mark.parametrize("window", [None, 1, 4])
@given(data=st.data())
@settings(derandomize=True, database=None, deadline=None, max_examples=40)
def test_every_token_attends_as_in_naive_attention(window: int | None, data: st.DataObject) -> None:
    import torch

    torch.manual_seed(0)
    rows = Rows([40, 40, 40], window)
    rows.read({row: data.draw(st.integers(1, 6)) for row in range(3)})
    for _ in range(data.draw(st.integers(1, 4))):
        match data.draw(st.sampled_from(("read", "step", "cut", "move"))):
            case "read":
                chosen = data.draw(st.lists(st.integers(0, 2), min_size=1, unique=True))
                rows.read({row: data.draw(st.integers(1, 5)) for row in chosen})
            case "step":
                rows.step(data.draw(st.integers(1, 3)))
            case "cut":
                row = data.draw(st.integers(0, 2))
                rows.cut(row, data.draw(st.integers(1, rows.known[row][0].shape[1])))
            case "move":
                source, target = data.draw(st.permutations(range(3)))[:2]
                rows.cache.move_row(source, target)
                rows.known[target] = rows.known[source]


def test_a_prefix_is_copied_and_not_shared() -> None:
    import torch

    first = Rows([6], None)
    first.read({0: 4})
    prefix = first.cache.copy_prefix(0, 3)
    second = Rows([9, 9], None)
    second.cache.load_prefix(1, prefix)
    second.known[1] = tuple(t[:, :3] for t in first.known[0])
    second.read({1: 2})
    second.step(2)
    for mine, theirs in zip(prefix.layers[0], first.known[0], strict=True):
        assert torch.equal(mine, theirs[:, :3])


def test_rows_of_different_lengths_have_few_unused_slots() -> None:
    import torch

    torch.manual_seed(0)
    lengths = [40] * 16 + [9] * 17
    rows = Rows(lengths, None)
    rows.read({row: 2 + row % 5 for row in range(33)})
    rows.step(33)
    rows.cache.move_row(32, 3)
    rows.known[3] = rows.known[32]
    rows.step(32)
    rows.read({3: 2, 20: 1})
    rows.step(17)
    keys, _ = rows.cache.layers[0]
    assert keys.shape == (HEADS, sum(lengths), SIZE)
