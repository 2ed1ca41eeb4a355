"""The engines on a device that is not the CPU: nothing is left on the CPU by mistake."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import ItemScore, ScoringOptions, score_items
from phi3_lora_qa.scoring.engine_choice import EngineChoice, choose_engine
from phi3_lora_qa.scoring.generate import generate_answer
from phi3_lora_qa.scoring.kv_cache import KVCache, Span
from tests.scoring.builders import assert_same_scores, item, longrope
from tests.scoring.pretend_device import moved, pretended_devices

OPTIONS: dict[str, Any] = {"max_new_tokens": 20, "token_budget": 600}


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Devices that do not exist, and so have no random state of their own."""
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(1, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_, **__: None)
    with pretended_devices():
        yield


def as_with_accelerate(model: Any) -> Any:
    """Let each layer move its arguments to its own device, as accelerate's hooks do."""

    def to_device(value: Any, device: torch.device) -> Any:
        if isinstance(value, tuple):
            return tuple(to_device(part, device) for part in value)
        return value.to(device) if isinstance(value, torch.Tensor) else value

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        device = next(module.parameters()).device
        moved_kwargs = {name: to_device(value, device) for name, value in kwargs.items()}
        return to_device(args, device), moved_kwargs

    for module in (*model.model.layers, model.model.norm, model.lm_head):
        module.register_forward_pre_hook(before, with_kwargs=True)
    return model


@pytest.mark.parametrize("kind", ["plain", "window", "longrope", "choices"])
@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("places", [("cuda:0",), ("cuda:0", "cuda:1")])
@pytest.mark.slow
def test_scores_are_those_of_the_cpu(
    kind: str,
    engine: str,
    places: tuple[str, ...],
    make_phi3: Callable[..., Any],
    tiny: LoadedBase,
    ragged: tuple[Item, ...],
) -> None:
    configs: dict[str, dict[str, Any]] = {
        "window": {"sliding_window": 12},
        "longrope": longrope(),
    }
    model, items = make_phi3(**configs.get(kind, {})), ragged[-6:]
    if kind == "choices":
        items = tuple(replace(own, choices=(own.reference, "no")) for own in items[:4])
    options = ScoringOptions(engine=engine, **OPTIONS)
    other = moved(model, *places)
    other = as_with_accelerate(other) if len(places) > 1 else other
    assert choose_engine(engine, other) == EngineChoice(name=engine)

    def compared(scored: Any) -> tuple[tuple[ItemScore, ...], tuple[ItemScore, ...]]:
        base = score_items(scored, tiny.tokenizer, items, options)
        return base, score_items(scored, tiny.tokenizer, items, options, base_scores=base)

    for found, expected in zip(compared(other), compared(model), strict=True):
        assert not any(score.error for score in found)
        assert_same_scores(found, expected)
        assert [score.agreement for score in found] == pytest.approx(
            [score.agreement for score in expected], nan_ok=True
        )


def test_an_answer_is_generated_where_the_model_is(tiny: LoadedBase) -> None:
    question = "What is a lobster?"
    expected = generate_answer(tiny.model, tiny.tokenizer, question)
    assert generate_answer(moved(tiny.model, "cuda:0"), tiny.tokenizer, question) == expected


def test_what_is_kept_of_a_base_is_on_the_cpu(tiny: LoadedBase) -> None:
    (score,) = score_items(
        moved(tiny.model, "cuda:0"),
        tiny.tokenizer,
        [item(id="a", question="What?", answer="small")],
        ScoringOptions(**OPTIONS),
    )
    assert score.output is not None
    assert score.output.top_k is not None
    assert score.output.top_k.tokens.device == torch.device("cpu")


def test_tensors_of_two_devices_are_refused_as_on_a_real_one() -> None:
    there = torch.ones(1, 1, 2, 4, device="cuda:0")
    with pytest.raises(RuntimeError, match="expected all tensors to be on one device"):
        _ = there + torch.ones(2, 4)
    with pytest.raises(RuntimeError, match="expected all tensors to be on one device"):
        torch.nn.functional.scaled_dot_product_attention(
            there, there, there, attn_mask=torch.ones(2, 2, dtype=torch.bool)
        )


def test_the_slots_and_masks_of_a_kv_cache_follow_the_queries() -> None:
    cache = KVCache([4, 3], window=2)
    keys = torch.ones(1, 1, 4, 8, device="cuda:1")
    cache.set_spans([Span(row=0, start=0, tokens=2), Span(row=1, start=0, tokens=2)])
    cache.update(keys, keys, 0)
    assert cache.attend(keys, 0, None).device == torch.device("cuda:1")
    cache.set_step([2, 2])
    step = torch.ones(2, 1, 1, 8, device="cuda:1")
    cache.update(step, step, 0)
    assert cache.attend(step, 0, None).device == torch.device("cuda:1")
