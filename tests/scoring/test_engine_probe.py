"""The fast engine is tested on a tiny model before it scores a real one."""

from importlib.metadata import version
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, Phi3ForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import engine_probe, kv_cache
from phi3_lora_qa.scoring.engine_choice import EngineChoice, choose_engine
from phi3_lora_qa.scoring.engine_probe import fast_engine_fault
from phi3_lora_qa.scoring.kv_cache import ATTENTION, KVCache
from phi3_lora_qa.scoring.score_items import ScoringOptions, score_items
from tests.scoring.builders import assert_same_scores

OPTIONS = ScoringOptions(max_new_tokens=20)


@pytest.fixture(autouse=True)
def probe_again() -> Any:
    fast_engine_fault.cache_clear()
    yield
    fast_engine_fault.cache_clear()


def test_the_installed_transformers_works_and_no_random_number_is_used() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert fast_engine_fault(Phi3ForCausalLM) == ""
    assert torch.equal(torch.rand(3), expected)


def needs_more_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version called a method that our KV cache does not have."""
    monkeypatch.delattr(KVCache, "update")


def ignores_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version looked up no attention function by its name."""
    monkeypatch.setattr(AttentionInterface, "register", lambda *arguments: None)
    monkeypatch.delitem(AttentionInterface._global_mapping, ATTENTION, raising=False)


def ignores_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version counted positions itself, which shifts all rows but the first."""
    forward = Phi3RotaryEmbedding.forward

    def counting(module: Any, x: Any, position_ids: Any) -> Any:
        return forward(module, x, torch.arange(position_ids.shape[1])[None])

    monkeypatch.setattr(Phi3RotaryEmbedding, "forward", counting)


def returns_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version read something that our KV cache does not have."""
    attend = KVCache.attend
    monkeypatch.setattr(KVCache, "attend", lambda *arguments: attend(*arguments) * torch.nan)


def returns_fewer_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version did not return the states of all tokens."""
    run = kv_cache.run_decoder
    monkeypatch.setattr(engine_probe, "run_decoder", lambda *given: run(*given)[..., :1, :])


CHANGES = [
    needs_more_methods,
    ignores_the_attention,
    ignores_positions,
    returns_nan,
    returns_fewer_states,
]


@pytest.mark.parametrize("change", CHANGES)
def test_an_unsupported_transformers_is_named_and_the_plain_engine_is_chosen(
    change: Any, monkeypatch: pytest.MonkeyPatch, tiny: LoadedBase
) -> None:
    change(monkeypatch)
    choice = choose_engine("fast", tiny.model)
    assert choice.name == "plain"
    assert choice.fallback.startswith(f"transformers {version('transformers')} ")
    assert "KV cache and attention function" in choice.fallback
    assert "pip install 'transformers==" in choice.fallback
    assert choose_engine("plain", tiny.model) == EngineChoice(name="plain")


@pytest.mark.parametrize("change", [needs_more_methods, ignores_the_attention, returns_nan])
def test_the_plain_engine_scores_if_the_fast_one_does_not_work(
    change: Any, monkeypatch: pytest.MonkeyPatch, tiny: LoadedBase, few: tuple[Item, ...]
) -> None:
    expected = score_items(tiny.model, tiny.tokenizer, few, OPTIONS)
    assert not any(score.error for score in expected)
    fast_engine_fault.cache_clear()
    change(monkeypatch)
    assert_same_scores(score_items(tiny.model, tiny.tokenizer, few, OPTIONS), expected)
