"""The engine is tried on a tiny model before it is trusted with a real one."""

from importlib.metadata import version
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, Phi3ForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.errors import IncompatibleLibraryError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import engine_probe, kv_cache
from phi3_lora_qa.scoring.engine_probe import require_engine_fits
from phi3_lora_qa.scoring.kv_cache import ATTENTION, KVCache
from phi3_lora_qa.scoring.score_items import ScoringOptions, score_items


@pytest.fixture(autouse=True)
def asked_anew() -> Any:
    require_engine_fits.cache_clear()
    yield
    require_engine_fits.cache_clear()


def test_the_installed_transformers_fits_and_no_random_number_is_used_up() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    require_engine_fits(Phi3ForCausalLM)
    assert torch.equal(torch.rand(3), expected)


def asks_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version called a method that our keys and values do not have."""
    monkeypatch.delattr(KVCache, "update")


def ignores_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version took no attention by its name."""
    monkeypatch.setattr(AttentionInterface, "register", lambda *given: None)
    monkeypatch.delitem(AttentionInterface._global_mapping, ATTENTION, raising=False)


def forgets_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version counted positions by itself, so that each row of a pass is elsewhere."""
    forward = Phi3RotaryEmbedding.forward

    def counting(module: Any, x: Any, position_ids: Any) -> Any:
        return forward(module, x, torch.arange(position_ids.shape[1])[None])

    monkeypatch.setattr(Phi3RotaryEmbedding, "forward", counting)


def gives_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version read what the keys and values do not have."""
    attend = KVCache.attend
    monkeypatch.setattr(KVCache, "attend", lambda *given: attend(*given) * torch.nan)


def returns_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a new version gave back other states than those of all tokens."""
    run = kv_cache.run_decoder
    monkeypatch.setattr(engine_probe, "run_decoder", lambda *given: run(*given)[..., :1, :])


CHANGES = [asks_for_more, ignores_the_attention, forgets_positions, gives_nan, returns_less]


@pytest.mark.parametrize("change", CHANGES)
def test_a_transformers_that_does_not_fit_is_named_before_anything_is_scored(
    change: Any, monkeypatch: pytest.MonkeyPatch, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    change(monkeypatch)
    with pytest.raises(IncompatibleLibraryError) as caught:
        score_items(tiny.model, tiny.tokenizer, ragged, ScoringOptions())
    assert str(caught.value).startswith(f"transformers {version('transformers')} ")
    assert "pip install 'transformers==" in str(caught.value)
