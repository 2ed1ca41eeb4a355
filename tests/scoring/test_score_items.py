"""Scores are compared with simple reference code, and errors stay with their items."""

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.errors import BaseModelError, InputError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import ScoringOptions, score_items
from tests.scoring.builders import ROUNDING, assert_same_scores, longrope
from tests.scoring.builders import item as make_item

OPTIONS = ScoringOptions(max_new_tokens=40, token_budget=600)


def reference_score(
    model: Any, tokenizer: Any, item: Item, limit: int
) -> tuple[float, int, str, bool]:
    """Score one item alone: all logits, torch's own cross entropy, the model's own generate."""
    import torch

    turns = [{"role": turn.role, "content": turn.content} for turn in item.prompt]
    ids = {"return_tensors": "pt", "return_dict": False}
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, **ids)
    answered = [*turns, {"role": "assistant", "content": item.reference}]
    whole = tokenizer.apply_chat_template(answered, **ids)
    stop = tokenizer.convert_tokens_to_ids("<|end|>")
    start = prompt.shape[1]
    end = start + whole[0, start:].tolist().index(stop) + 1
    with torch.no_grad():
        logits = model(input_ids=whole).logits[0, start - 1 : end - 1]
        loss = torch.nn.functional.cross_entropy(logits, whole[0, start:end])
        limit = min(limit, 2 * (end - start - 1) + 8)
        answer = model.generate(prompt, do_sample=False, max_new_tokens=limit)[0, start:].tolist()
    stopped = answer[-1] in model.generation_config.eos_token_id
    text = tokenizer.decode(answer, skip_special_tokens=True)
    return float(loss), end - start, text, stopped


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "window", "longrope", "tiny"])
def test_scores_are_those_of_single_items_under_the_reference_code(
    kind: str,
    random_phi3: Any,
    make_phi3: Callable[..., Any],
    tiny: LoadedBase,
    ragged: tuple[Item, ...],
) -> None:
    if kind == "window":  # shorter than most prompts
        model = make_phi3(sliding_window=12)
    elif kind == "longrope":  # some items are above the threshold, some below
        model = make_phi3(**longrope())
    else:
        model = random_phi3 if kind == "random" else tiny.model
    scores = score_items(model, tiny.tokenizer, ragged, OPTIONS)
    for item, score in zip(ragged, scores, strict=True):
        loss, tokens, answer, stopped = reference_score(model, tiny.tokenizer, item, 40)
        assert score.loss == pytest.approx(loss, abs=ROUNDING), item.id
        assert (score.item_id, score.tokens) == (item.id, tokens)
        assert (score.answer, score.stopped, score.error) == (answer, stopped, ""), item.id


@pytest.mark.slow
def test_no_score_depends_on_the_batch(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    alone, some, together = (
        score_items(random_phi3, tiny.tokenizer, ragged, replace(OPTIONS, token_budget=budget))
        for budget in (1, 500, 1_000_000)
    )
    assert_same_scores(alone, together)
    assert_same_scores(some, together)
    # An item that never stops keeps its own limit, next to one with a longer reference.
    assert any(not score.stopped for score in alone)
    assert any(score.stopped for score in score_items(tiny.model, tiny.tokenizer, ragged, OPTIONS))


def test_the_order_of_the_items_changes_no_bit(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    shuffled = list(ragged)
    Random(3).shuffle(shuffled)
    first = score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS)
    second = score_items(random_phi3, tiny.tokenizer, shuffled, OPTIONS)
    assert {score.item_id: score for score in first} == {score.item_id: score for score in second}
    assert [score.item_id for score in second] == [item.id for item in shuffled]


def test_an_adapter_is_scored_with_its_layers(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    import copy

    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    targets = ["qkv_proj", "down_proj", "lm_head"]
    config = LoraConfig(r=4, target_modules=targets, lora_dropout=0.5, task_type="CAUSAL_LM")
    tuned = get_peft_model(copy.deepcopy(random_phi3), config)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    tuned.train()  # dropout of one half would show
    items = ragged[-6:]
    scores = score_items(tuned, tiny.tokenizer, items, OPTIONS)
    merged = copy.deepcopy(tuned).merge_and_unload().eval()
    for item, score in zip(items, scores, strict=True):
        loss, _, answer, _ = reference_score(merged, tiny.tokenizer, item, 40)
        assert score.loss == pytest.approx(loss, abs=1e-4)
        assert score.answer == answer
    base = score_items(random_phi3, tiny.tokenizer, items, OPTIONS)
    assert all(abs(one.loss - other.loss) > 0.01 for one, other in zip(base, scores, strict=True))


def test_the_trained_base_answers_with_its_references_and_stops(
    tiny: LoadedBase, suite: tuple[Item, ...]
) -> None:
    items = [item for item in suite if item.group == "general"][::5]
    scores = score_items(tiny.model, tiny.tokenizer, items, OPTIONS)
    right = [score.answer == item.reference for score, item in zip(scores, items, strict=True)]
    assert sum(right) >= 0.8 * len(items)
    assert all(score.stopped for score in scores)


def test_an_answer_that_never_stops_is_cut_at_its_limit_and_not_stopped(
    random_phi3: Any, tiny: LoadedBase
) -> None:
    import copy

    endless = copy.deepcopy(random_phi3)
    endless.generation_config.eos_token_id = [767]
    own = make_item(id="a", question="How large is the wolf?", answer="large")
    (score,) = score_items(endless, tiny.tokenizer, [own], OPTIONS)
    assert not score.stopped
    assert score.answer
    assert score.error == ""


def test_sampling_settings_of_the_base_do_not_reach_the_answers(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    import copy

    from transformers import GenerationConfig

    sampling = copy.deepcopy(random_phi3)
    sampling.generation_config = GenerationConfig(
        eos_token_id=random_phi3.generation_config.eos_token_id,
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=1.8,
        no_repeat_ngram_size=2,
        num_beams=2,
        max_length=7,
    )
    items = ragged[:6]
    assert score_items(sampling, tiny.tokenizer, items, OPTIONS) == score_items(
        random_phi3, tiny.tokenizer, items, OPTIONS
    )


def test_a_base_without_stop_tokens_stops_at_that_of_the_template(
    tiny: LoadedBase, suite: tuple[Item, ...]
) -> None:
    import copy

    nameless = copy.deepcopy(tiny.model)
    nameless.generation_config.eos_token_id = None
    scores = score_items(nameless, tiny.tokenizer, suite[-3:], OPTIONS)
    assert scores == score_items(tiny.model, tiny.tokenizer, suite[-3:], OPTIONS)


def test_a_faulty_item_is_reported_and_the_others_are_scored(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    broken = {
        "too-long": Item(
            id="too-long", prompt=(Message(role="user", content="wolf " * 5000),), reference="a"
        ),
        "no-answer": Item(id="no-answer", prompt=ragged[0].prompt, reference=""),
    }
    items = [broken["too-long"], *ragged[:3], broken["no-answer"]]
    scores = score_items(random_phi3, tiny.tokenizer, items, OPTIONS)
    assert [score.item_id for score in scores] == [item.id for item in items]
    assert "4096 positions" in scores[0].error
    assert "no tokens" in scores[-1].error
    assert all(math.isnan(scores[n].loss) for n in (0, -1))
    assert list(scores[1:-1]) == list(score_items(random_phi3, tiny.tokenizer, ragged[:3], OPTIONS))


def test_a_model_error_affects_only_the_item_that_causes_it(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    """A token that the model rejects fails the forward of the whole batch."""
    import copy

    small = copy.deepcopy(random_phi3)
    hit = score_ids(tiny, "lobster") - score_ids(tiny, "wolf")
    small.model.embed_tokens.register_forward_pre_hook(
        lambda _, inputs: raise_if(bool(set(inputs[0].unique().tolist()) & hit))
    )
    whole = replace(OPTIONS, token_budget=1_000_000)
    scores = score_items(small, tiny.tokenizer, ragged, whole)
    broken = [score for score in scores if score.error]
    assert 0 < len(broken) < len(ragged)
    assert all("RuntimeError: no such token" in score.error for score in broken)
    healthy = score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS)
    expected = {score.item_id: score for score in healthy}
    assert_same_scores(
        [score for score in scores if not score.error],
        [expected[score.item_id] for score in scores if not score.error],
    )


def score_ids(tiny: LoadedBase, word: str) -> set[int]:
    text = f"What is a {word}?"
    return set(tiny.tokenizer(text, add_special_tokens=False)["input_ids"])


def raise_if(broken: bool) -> None:
    if broken:
        raise RuntimeError("no such token")


def test_a_loss_that_is_not_finite_is_an_error_of_the_item(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    import copy

    poisoned = copy.deepcopy(random_phi3)
    poisoned.model.norm.weight.data[0] = math.nan
    scores = score_items(poisoned, tiny.tokenizer, ragged[:3], OPTIONS)
    assert all("the loss is nan" in score.error for score in scores)


def test_progress_counts_every_item_once(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    seen: list[tuple[int, ...]] = []
    score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS, lambda _, *step: seen.append(step))
    assert seen[0] == (0, len(ragged))
    assert seen[-1] == (len(ragged), len(ragged))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_progress_goes_on_within_a_batch(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    seen: list[int] = []
    whole = replace(OPTIONS, token_budget=1_000_000)
    score_items(
        random_phi3, tiny.tokenizer, ragged, whole, lambda _, done, total: seen.append(done)
    )
    assert len(seen) > len(ragged) / 2


def test_the_random_state_of_the_caller_is_unchanged(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    import torch

    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    score_items(random_phi3, tiny.tokenizer, ragged[:2], OPTIONS)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_empty_list_of_items_has_no_scores(random_phi3: Any, tiny: LoadedBase) -> None:
    assert score_items(random_phi3, tiny.tokenizer, [], OPTIONS) == ()


def test_an_error_that_concerns_all_items_is_raised_at_once(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    import copy

    with pytest.raises(InputError, match="have the same id"):
        score_items(random_phi3, tiny.tokenizer, [ragged[0], ragged[0]], OPTIONS)
    with pytest.raises(InputError, match="positive"):
        score_items(random_phi3, tiny.tokenizer, ragged, ScoringOptions(token_budget=0))
    bare = copy.deepcopy(tiny.tokenizer)
    bare.chat_template = None
    with pytest.raises(BaseModelError, match="chat template"):
        score_items(random_phi3, bare, ragged, OPTIONS)


def test_a_long_reference_is_scored_in_blocks_of_logits(
    random_phi3: Any,
    tiny: LoadedBase,
    ragged: tuple[Item, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS)
    monkeypatch.setattr("phi3_lora_qa.scoring.losses._BLOCK_SIZE", 7 * 768)
    assert_same_scores(score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS), whole)
