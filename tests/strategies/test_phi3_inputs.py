"""Tiny Phi-3 configs give models that run, and batches are padded as their masks say."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Phi3Config, Phi3ForCausalLM

from phi3_lora_qa.strategies import Batch, Padding, batches, phi3_configs
from tests.strategies.drawing import QUICK, SLOW, smallest

PLAIN = smallest(phi3_configs())
OPTIONS: dict[str, Callable[[Any], bool]] = {
    "grouped queries": lambda c: c.num_key_value_heads < c.num_attention_heads,
    "tied tables": lambda c: c.tie_word_embeddings,
    "sliding window": lambda c: c.sliding_window is not None,
    "longrope": lambda c: c.rope_parameters["rope_type"] == "longrope",
    "pad is the end": lambda c: c.pad_token_id == c.eos_token_id,
}
BEYOND = 40
"""More tokens than any sliding window or original context of longrope."""


def run(config: Phi3Config, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.inference_mode():
        logits: torch.Tensor = Phi3ForCausalLM(config).eval()(ids, attention_mask=mask).logits
    return logits


@SLOW
@given(phi3_configs())
def test_a_model_runs_beyond_its_window_and_context(config: Any) -> None:
    assert 16 <= config.hidden_size <= 64
    assert 32 <= config.vocab_size <= 128
    assert 1 <= config.num_hidden_layers <= 3
    specials = (config.pad_token_id, config.bos_token_id, config.eos_token_id)
    assert all(0 <= token < config.vocab_size for token in specials)
    assert (config.sliding_window or 0) < BEYOND
    rope = config.rope_parameters
    assert (
        rope.get("original_max_position_embeddings", 0) < BEYOND <= config.max_position_embeddings
    )
    logits = run(config, torch.arange(BEYOND)[None] % config.vocab_size)
    assert logits.shape == (1, BEYOND, config.vocab_size)
    assert logits.isfinite().all()
    assert logits.std() > 0.1  # not so flat that mistakes would hide


def test_the_simplest_config_is_small_and_has_no_options() -> None:
    sizes = (PLAIN.hidden_size, PLAIN.intermediate_size, PLAIN.vocab_size)
    assert sizes == (16, 16, 32)
    assert (PLAIN.num_hidden_layers, PLAIN.num_attention_heads) == (1, 1)
    assert not any(has(PLAIN) for has in OPTIONS.values())


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_drawn_and_shrinks_to_itself_alone(option: str) -> None:
    found = smallest(phi3_configs(), OPTIONS[option])
    assert [name for name, has in OPTIONS.items() if has(found)] == [option]
    assert (found.hidden_size, found.num_hidden_layers) == (16, 1)


@pytest.mark.parametrize("window", [None, 4])
def test_a_token_affects_only_positions_within_its_window(window: int | None) -> None:
    config = smallest(phi3_configs(), lambda c: c.sliding_window == window)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [4, 6, 7, 8, 9, 10, 11, 12]])
    one, other = run(config, ids)
    assert torch.equal(one[-1], other[-1]) == (window is not None)


def stretches(config: Any) -> bool:
    return max(config.rope_parameters.get("long_factor", [1])) > 2


def test_longrope_changes_the_logits_beyond_the_original_context() -> None:
    config = smallest(phi3_configs(), stretches)
    plain = Phi3Config(**{**config.to_dict(), "rope_parameters": None})
    ids = torch.arange(BEYOND)[None] % config.vocab_size
    assert not torch.allclose(run(config, ids)[0, -1], run(plain, ids)[0, -1], atol=1e-3)


@QUICK
@given(data=st.data())
def test_a_batch_is_padded_to_its_longest_row_on_one_side(data: st.DataObject) -> None:
    config = data.draw(phi3_configs())
    batch = data.draw(batches(config, max_rows=3, max_tokens=5))
    ids, mask = batch.input_ids, batch.attention_mask
    assert ids.shape == mask.shape
    assert ids.shape[0] <= 3
    assert ids.dtype == mask.dtype == np.int64
    assert 0 <= ids.min() <= ids.max() < config.vocab_size
    assert ((ids == config.pad_token_id) == (mask == 0)).all()
    lengths = mask.sum(axis=1)
    assert lengths.min() >= 1
    assert lengths.max() == ids.shape[1] <= 5
    steps = np.diff(mask, axis=1)
    assert (steps <= 0).all() or (steps >= 0).all()


@pytest.mark.parametrize("padding", ["right", "left"])
def test_the_side_of_the_padding_can_be_chosen(padding: Padding) -> None:
    found = smallest(batches(PLAIN, padding=padding), lambda batch: not batch.attention_mask.all())
    expected = [[1, 0], [1, 1]] if padding == "right" else [[0, 1], [1, 1]]
    assert sorted(found.attention_mask.tolist()) == expected


def is_padded(column: int, batch: Batch) -> bool:
    return not batch.attention_mask[:, column].all()


def test_both_padding_sides_are_drawn_by_default() -> None:
    for column in (0, -1):
        found = smallest(batches(PLAIN), partial(is_padded, column))
        assert found.input_ids.shape == (2, 2)


@SLOW
@given(data=st.data())
def test_a_batch_runs_and_gives_finite_logits_at_its_tokens(data: st.DataObject) -> None:
    config = data.draw(phi3_configs(max_layers=1))
    batch = data.draw(batches(config))
    mask = torch.from_numpy(batch.attention_mask)
    assert run(config, torch.from_numpy(batch.input_ids), mask)[mask.bool()].isfinite().all()


def test_a_batch_shrinks_to_one_token_and_is_shown_in_full() -> None:
    found = smallest(batches(PLAIN))
    assert repr(found) == "Batch(input_ids=array([[1]]), attention_mask=array([[1]]))"
    assert isinstance(found, Batch)
