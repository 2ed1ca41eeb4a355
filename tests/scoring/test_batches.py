"""Items are grouped into full batches, whatever their order."""

from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.scoring.batches import default_token_budget, plan_batches
from phi3_lora_qa.scoring.prompts import TokenizedItem

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


def items_of(lengths: list[int]) -> list[TokenizedItem]:
    return [
        TokenizedItem(id=f"{n:03}", prompt=(0,) * length, reference=(), answer_limit=0)
        for n, length in enumerate(lengths)
    ]


@given(LENGTHS, st.integers(1, 1000))
def test_every_item_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    items = items_of(lengths)
    batches = plan_batches(items, budget)
    assert sorted(item.id for batch in batches for item in batch) == [item.id for item in items]
    for batch in batches:
        assert len(batch) == 1 or sum(item.length for item in batch) <= budget


@given(LENGTHS, st.integers(1, 1000), st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(
    lengths: list[int], budget: int, random: Random
) -> None:
    items = items_of(lengths)
    shuffled = list(items)
    random.shuffle(shuffled)
    assert plan_batches(shuffled, budget) == plan_batches(items, budget)


@given(LENGTHS)
def test_batches_are_as_full_as_the_budget_allows(lengths: list[int]) -> None:
    batches = plan_batches(items_of(lengths), 600)
    for batch, following in pairwise(batches):
        assert sum(item.length for item in batch) + following[0].length > 600
        assert following[0].length <= batch[-1].length


def test_an_item_beyond_the_longrope_threshold_gets_a_separate_batch() -> None:
    batches = plan_batches(items_of([50, 60, 10, 20]), 10_000, alone_above=40)
    assert [[item.length for item in batch] for batch in batches] == [[60], [50], [20, 10]]


@pytest.mark.parametrize(
    ("layers", "tokens"), [(1, 32_768), (30, 32_768), (60, 17_476), (600, 2048)]
)
def test_the_token_budget_follows_from_the_size_of_the_kv_cache(layers: int, tokens: int) -> None:
    import torch
    from transformers import Phi3Config

    config = Phi3Config(
        hidden_size=576, num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=layers
    )
    model: Any = SimpleNamespace(config=config, dtype=torch.float32)
    assert default_token_budget(model) == tokens
