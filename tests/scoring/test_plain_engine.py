"""The plain engine gives the fast engine's answers and losses, on every base and variant."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3_lora_qa.data.chat_items import Item
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.loading import LoadedBase, load_base
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.scoring import (
    ItemScore,
    ScoringOptions,
    batch_engine,
    item_outputs,
    kv_cache,
    plain_engine,
    score_items,
)
from phi3_lora_qa.scoring.kv_cache import KVCache
from tests.scoring.builders import ROUNDING, longrope
from tests.variants import VARIANTS, train

FAST = ScoringOptions(max_new_tokens=24, token_budget=600)
PLAIN = replace(FAST, engine="plain")
OPTIONS = ("a small wolf", "large", "yes, and it is the largest of all of them")


@pytest.fixture(scope="module")
def items(ragged: tuple[Item, ...]) -> tuple[Item, ...]:
    """Items of all lengths, and some with choices."""
    few = ragged[::4]
    return (*few, *(replace(item, id=f"{item.id} choices", choices=OPTIONS) for item in few[:3]))


def assert_engines_agree(
    base: Any,
    tuned: Any,
    tokenizer: Any,
    items: Sequence[Item],
    tolerance: float = ROUNDING,
    **limits: float,
) -> None:
    """Compare all outputs of a base, and of a tuned model that is compared with the base.

    Args:
        base: The base.
        tuned: A model made of it.
        tokenizer: The base's tokenizer.
        items: The items.
        tolerance: The largest difference of a loss or a divergence, in nats per token.
        limits: ``answers`` is the largest fraction of answers that may differ by rounding.
    """
    fast_base, plain_base = (score_items(base, tokenizer, items, o) for o in (FAST, PLAIN))
    assert_outputs_agree(fast_base, plain_base, tolerance, **limits)
    for fast, plain in zip(fast_base, plain_base, strict=True):
        assert fast.output is not None
        assert plain.output is not None
        assert fast.output.top_k is not None
        assert plain.output.top_k is not None
        torch.testing.assert_close(
            plain.output.top_k.log_probabilities,
            fast.output.top_k.log_probabilities,
            rtol=0.0,
            atol=20 * tolerance,
        )
    fast_tuned = score_items(tuned, tokenizer, items, FAST, base_scores=fast_base)
    plain_tuned = score_items(tuned, tokenizer, items, PLAIN, base_scores=plain_base)
    assert_outputs_agree(fast_tuned, plain_tuned, tolerance, **limits)
    assert any(score.divergence > 10 * tolerance for score in plain_tuned) or tuned is base


def assert_outputs_agree(
    fast: Sequence[ItemScore],
    plain: Sequence[ItemScore],
    tolerance: float,
    *,
    answers: float = 0.0,
) -> None:
    assert not any(score.error for score in (*fast, *plain))
    assert [(s.item_id, s.tokens, s.choice) for s in plain] == [
        (s.item_id, s.tokens, s.choice) for s in fast
    ]
    for name, factor in (("loss", 1), ("divergence", 20)):
        values = [[getattr(score, name) for score in scores] for scores in (plain, fast)]
        assert values[0] == pytest.approx(values[1], abs=factor * tolerance, nan_ok=True), name
    for one, other in zip(plain, fast, strict=True):
        assert one.output is not None
        assert other.output is not None
        expected = other.output.choices
        assert one.output.choices == pytest.approx(expected, abs=20 * tolerance)
    differing = [
        one.item_id
        for one, other in zip(plain, fast, strict=True)
        if (one.answer, one.stopped, one.output and one.output.answer)
        != (other.answer, other.stopped, other.output and other.output.answer)
    ]
    assert len(differing) <= answers * len(fast), differing
    if not answers:
        agreements = [[score.agreement for score in scores] for scores in (plain, fast)]
        assert agreements[0] == pytest.approx(agreements[1], nan_ok=True)


@pytest.mark.parametrize("variant", ["vanilla", "dora_everywhere", "saved_head"])
def test_both_engines_agree_on_the_bundled_base(
    variant: str, tiny: LoadedBase, items: tuple[Item, ...], tmp_path: Path
) -> None:
    assert_variant_agrees(variant, tiny, items, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant", sorted(VARIANTS.keys() - {"vanilla", "dora_everywhere", "saved_head"})
)
def test_both_engines_agree_on_every_kind_of_adapter(
    variant: str, tiny: LoadedBase, items: tuple[Item, ...], tmp_path: Path
) -> None:
    assert_variant_agrees(variant, tiny, items, tmp_path)


def assert_variant_agrees(
    variant: str, tiny: LoadedBase, items: Sequence[Item], folder: Path
) -> None:
    train(tiny.model, folder / "adapter", **VARIANTS[variant])
    tuned = attach(tiny.model, folder / "adapter")
    assert_engines_agree(tiny.model, tuned, tiny.tokenizer, items)


KINDS: dict[str, dict[str, Any]] = {
    "random": {},
    "tied": {"tie_word_embeddings": True},
    "window": {"sliding_window": 12},
    "longrope": longrope(),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_agree_on_every_kind_of_base(
    kind: str, make_phi3: Callable[..., Any], tiny: LoadedBase, items: tuple[Item, ...]
) -> None:
    """A tied head, a sliding window, and items on both sides of LongRoPE's threshold."""
    base = make_phi3(**KINDS[kind])
    tuned = copy.deepcopy(base)
    for parameter in tuned.model.layers.parameters():
        parameter.data.mul_(1.01)
    assert_engines_agree(base, tuned, tiny.tokenizer, items, tolerance=3 * ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_both_engines_agree_in_lower_precision(
    name: str, items: tuple[Item, ...], good_adapter: Path
) -> None:
    """bfloat16 has 8 bits: losses differ by some hundredths, and near ties may go either way."""
    base = load_base(resolve_base("tiny"), name)
    tuned = attach(base.model, good_adapter)
    tolerance = 0.05 if name == "bfloat16" else 0.01
    assert_engines_agree(base.model, tuned, base.tokenizer, items, tolerance, answers=0.2)


def shifts_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attend to one token less, as if spans started too early."""
    run = kv_cache.run_decoder
    monkeypatch.setattr(
        batch_engine, "run_decoder", lambda model, cache, ids, at: run(model, cache, ids, at // 2)
    )


def forgets_the_first_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    load = KVCache.copy_prefix

    def forget(cache: KVCache, row: int, tokens: int) -> Any:
        prefix = load(cache, row, tokens)
        for keys, _ in prefix.layers:
            keys[:, :1] = 0.0
        return prefix

    monkeypatch.setattr(KVCache, "copy_prefix", forget)


def accepts_every_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(row: Any, draft: Any, predicted: Any, stops: frozenset[int]) -> None:
        for token in draft:
            if not row.finished:
                row.append(token, stops)

    monkeypatch.setattr(batch_engine._Row, "accept_matching", accept)


def scales_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one part in a thousand: far less than any wrong attention."""
    score = item_outputs.score_references

    def scaled(*arguments: Any) -> Any:
        return [(replace(o, loss=o.loss * 1.001), p) for o, p in score(*arguments)]

    monkeypatch.setattr(batch_engine, "score_references", scaled)


@pytest.mark.parametrize(
    "fault", [shifts_positions, forgets_the_first_slot, accepts_every_draft, scales_the_losses]
)
def test_a_fault_in_the_fast_engine_would_be_found(
    fault: Any,
    monkeypatch: pytest.MonkeyPatch,
    random_phi3: Any,
    tiny: LoadedBase,
    items: tuple[Item, ...],
) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        assert_engines_agree(random_phi3, random_phi3, tiny.tokenizer, items)


def test_the_plain_engine_does_not_use_the_fast_one(
    monkeypatch: pytest.MonkeyPatch, tiny: LoadedBase, items: tuple[Item, ...]
) -> None:
    """No KV cache or attention function of ours, no prepacked weights, no decoder by itself."""
    expected = score_items(tiny.model, tiny.tokenizer, items[:2], PLAIN)

    def forbidden(*_: object, **__: object) -> Any:
        raise AssertionError("the plain engine used a part of the fast one")

    for target in (
        "kv_cache.KVCache.__init__",
        "kv_cache._attention_of_kv_cache",
        "prepacked_linear._operators",
        "prepacked_linear.matmul_backends",
        "losses.logit_blocks",
        "engine_choice.fast_engine_fault",
    ):
        monkeypatch.setattr(f"phi3_lora_qa.scoring.{target}", forbidden)
    monkeypatch.setattr(type(tiny.model), "get_decoder", forbidden)
    assert score_items(tiny.model, tiny.tokenizer, items[:2], PLAIN) == expected
    assert not any(score.error for score in expected)


def test_progress_counts_every_item(tiny: LoadedBase, items: tuple[Item, ...]) -> None:
    seen: list[int] = []
    score_items(
        tiny.model, tiny.tokenizer, items, PLAIN, lambda phase, done, total: seen.append(done)
    )
    assert seen == list(range(len(items) + 1))


def test_an_error_in_the_plain_engine_stays_with_its_item(
    monkeypatch: pytest.MonkeyPatch, tiny: LoadedBase, items: tuple[Item, ...]
) -> None:
    score_alone = plain_engine.score_alone

    def failing(model: Any, item: Any, *arguments: Any) -> Any:
        if item.id == items[1].id:
            raise RuntimeError("no such token")
        return score_alone(model, item, *arguments)

    monkeypatch.setattr(plain_engine, "score_alone", failing)
    scores = score_items(tiny.model, tiny.tokenizer, items[:4], PLAIN)
    assert [bool(score.error) for score in scores] == [False, True, False, False]
    assert "no such token" in scores[1].error
    assert math.isnan(scores[1].loss)
