"""Cells: each token finds what stands before it in its own row, and nothing else."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.scoring.kv_cache import KVCache, Span

HEADS, GROUPS, SIZE = 2, 3, 4


def drawn(tokens: int, heads: int = HEADS) -> Any:
    import torch

    return torch.randn(1, heads, tokens, SIZE, dtype=torch.float64)


def plain(query: Any, keys: Any, values: Any, window: int | None) -> Any:
    """What the last tokens of a row find, (heads, tokens, size), written out."""
    import torch

    tokens, end = query.shape[1], keys.shape[1]
    behind = torch.arange(end - tokens, end)[:, None] - torch.arange(end)
    seen = (behind >= 0) & (behind < (window or end))
    keys, values = (t.repeat_interleave(GROUPS, 0) for t in (keys, values))
    logits = (query @ keys.transpose(1, 2)) * 0.3
    return logits.masked_fill(~seen, -torch.inf).softmax(-1) @ values


class Rows:
    """A store beside the plainest one: a list of keys and values for each row."""

    def __init__(self, longest: Sequence[int], window: int | None) -> None:
        rows = len(longest)
        self.store = KVCache(longest, window)
        self.known = {row: (drawn(0)[0], drawn(0)[0]) for row in range(rows)}
        self.window = window

    def read(self, lengths: dict[int, int]) -> None:
        """Read so many further tokens of rows; look at everything that is found."""
        import torch

        spans = [
            Span(row=row, start=self.known[row][0].shape[1], tokens=tokens)
            for row, tokens in lengths.items()
        ]
        total = sum(lengths.values())
        query, keys, values = drawn(total, HEADS * GROUPS), drawn(total), drawn(total)
        self.store.aim(spans)
        held, _ = self.store.update(keys, values, 0)
        found = self.store.attend(query, held.layer, 0.3)
        at = 0
        for span in spans:
            own = slice(at, at := at + span.tokens)
            self.known[span.row] = tuple(  # type: ignore[assignment]
                torch.cat((before, new[0, :, own]), 1)
                for before, new in zip(self.known[span.row], (keys, values), strict=True)
            )
            wanted = plain(query[0, :, own], *self.known[span.row], self.window)
            torch.testing.assert_close(found[0, own], wanted.transpose(0, 1))

    def step(self, rows: int) -> None:
        """Read one further token of each of the first rows."""
        import torch

        query, keys, values = (
            torch.randn(rows, heads, 1, SIZE, dtype=torch.float64)
            for heads in (HEADS * GROUPS, HEADS, HEADS)
        )
        ends = [self.known[row][0].shape[1] for row in range(rows)]
        self.store.aim_step(ends)
        held, _ = self.store.update(keys, values, 0)
        found = self.store.attend(query, held.layer, 0.3)
        for row in range(rows):
            own = (
                torch.cat((b, n[row]), 1)
                for b, n in zip(self.known[row], (keys, values), strict=True)
            )
            self.known[row] = tuple(own)  # type: ignore[assignment]
            wanted = plain(query[row], *self.known[row], self.window)
            torch.testing.assert_close(found[row], wanted.transpose(0, 1))

    def cut(self, row: int, length: int) -> None:
        """Forget the end of a row."""
        keys, values = self.known[row]
        self.known[row] = keys[:, :length], values[:, :length]


@pytest.mark.parametrize("window", [None, 1, 4])
@given(data=st.data())
@settings(derandomize=True, database=None, deadline=None, max_examples=40)
def test_every_token_finds_what_the_plainest_attention_finds(
    window: int | None, data: st.DataObject
) -> None:
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
                rows.store.move(source, target)
                rows.known[target] = rows.known[source]


def test_a_prefix_is_copied_and_not_shared() -> None:
    import torch

    first = Rows([6], None)
    first.read({0: 4})
    prefix = first.store.prefix(0, 3)
    second = Rows([9, 9], None)
    second.store.begin(1, prefix)
    second.known[1] = tuple(t[:, :3] for t in first.known[0])
    second.read({1: 2})
    second.step(2)
    for mine, theirs in zip(prefix.layers[0], first.known[0], strict=True):
        assert torch.equal(mine, theirs[:, :3])


def test_rows_of_unlike_length_have_hardly_more_cells_than_they_need() -> None:
    import torch

    torch.manual_seed(0)
    longest = [40] * 16 + [9] * 17
    rows = Rows(longest, None)
    rows.read({row: 2 + row % 5 for row in range(33)})
    rows.step(33)
    rows.store.move(32, 3)
    rows.known[3] = rows.known[32]
    rows.step(32)
    rows.read({3: 2, 20: 1})
    rows.step(17)
    keys, _ = rows.store.layers[0]
    assert keys.shape == (HEADS, sum(longest), SIZE)
