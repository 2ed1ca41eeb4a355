"""Shared prefixes, drafts and batches change no loss and no answer."""

from dataclasses import replace
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import ItemScore, ScoringOptions, score_items
from phi3_lora_qa.scoring.item_outputs import ItemOutput
from tests.scoring.builders import assert_same_scores, longrope

OPTIONS = ScoringOptions(max_new_tokens=40, token_budget=600)


@pytest.mark.slow
def test_a_draft_changes_no_answer(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    without = score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS)

    def with_drafts(change: Any) -> tuple[ItemScore, ...]:
        base_scores = [replace(s, output=change(s.output)) for s in without]
        return score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS, base_scores=base_scores)

    changes = {
        "right": lambda r: r,
        "too short": lambda r: replace(r, answer=r.answer[:3]),
        "wrong at once": lambda r: replace(r, answer=tuple(reversed(r.answer))),
        "wrong later": lambda r: replace(r, answer=(*r.answer[:5], 1, 2, 3)),
        "too long": lambda r: replace(r, answer=(*r.answer, *range(50))),
        "none": lambda r: replace(r, answer=()),
        "no top-k": lambda r: replace(r, top_k=None),
    }
    for name, change in changes.items():
        scores = with_drafts(change)
        assert_same_scores(scores, without)
        for score in scores:
            assert isinstance(score.output, ItemOutput)
            if name == "no top-k":
                assert score.output.divergence != score.output.divergence
            else:
                assert score.output.divergence < 1e-6
                assert score.output.agreement == 1.0


def test_a_shared_prefix_is_read_once_and_changes_nothing(
    random_phi3: Any, tiny: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = Message(
        role="system", content="You answer in one word, and never in two or more. " * 3
    )
    items = [
        Item(
            id=str(n),
            prompt=(system, Message(role="user", content=f"Is {n} more than {n % 7}?")),
            reference="yes" * (1 + n % 3),
        )
        for n in range(12)
    ]
    seen: list[int] = []
    handle = random_phi3.model.embed_tokens.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].numel())
    )
    together = score_items(random_phi3, tiny.tokenizer, items, OPTIONS)
    shared = sum(seen)
    seen.clear()
    monkeypatch.setattr(
        "phi3_lora_qa.scoring.batch_engine.shared_prefixes", lambda prompts: [0] * len(prompts)
    )
    assert_same_scores(score_items(random_phi3, tiny.tokenizer, items, OPTIONS), together)
    handle.remove()
    prompt = len(tiny.tokenizer(system.content)["input_ids"])
    assert sum(seen) - shared > 10 * prompt


def test_an_answer_equal_to_the_reference_needs_no_extra_pass(
    tiny: LoadedBase, suite: tuple[Item, ...]
) -> None:
    items = [item for item in suite if item.group == "general"][::6]
    scores = score_items(tiny.model, tiny.tokenizer, items, OPTIONS)
    known = [i for i, s in zip(items, scores, strict=True) if s.answer == i.reference]
    assert len(known) > 10
    passes: list[int] = []
    handle = tiny.model.model.embed_tokens.register_forward_pre_hook(
        lambda _, inputs: passes.append(inputs[0].shape[1])
    )
    score_items(tiny.model, tiny.tokenizer, known, replace(OPTIONS, token_budget=100_000))
    handle.remove()
    assert len(passes) <= 2  # the shared prefix, if any, and the batch


def test_a_row_that_is_not_finite_does_not_change_other_rows(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    """A NaN in one row's keys must not reach the row that uses its slots afterwards."""
    import copy
    import math

    poisoned = copy.deepcopy(random_phi3)
    word = tiny.tokenizer("lobster", add_special_tokens=False)["input_ids"]
    others = {
        token
        for item in ragged
        for turn in item.prompt
        if "lobster" not in turn.content
        for token in tiny.tokenizer(turn.content, add_special_tokens=False)["input_ids"]
    }
    own = [token for token in word if token not in others]
    poisoned.model.embed_tokens.weight.data[own] = math.nan
    faulty = Item(id="faulty", prompt=(Message(role="user", content="What is a lobster?"),),
                reference="an animal")  # fmt: skip
    options = replace(OPTIONS, token_budget=1_000_000)
    whole = score_items(poisoned, tiny.tokenizer, [faulty, *ragged], options)
    healthy = score_items(random_phi3, tiny.tokenizer, ragged, options)
    valid = [s for s in whole[1:] if not s.error]
    assert whole[0].error
    assert len(valid) > len(ragged) / 2
    by_id = {s.item_id: s for s in healthy}
    assert_same_scores(tuple(valid), tuple(by_id[s.item_id] for s in valid))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "window", "longrope"])
def test_choices_have_the_likelihood_of_a_reference_and_change_no_other_score(
    kind: str, make_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    settings: dict[str, Any] = {}
    if kind == "window":
        settings = {"sliding_window": 12}
    elif kind == "longrope":
        settings = longrope()
    model = make_phi3(**settings)
    options = ("a small wolf", "large", "yes, and it is the largest of all of them")
    with_choices = [
        replace(item, id=f"{item.id} {n}", reference=options[n % 3], choices=options)
        for n, item in enumerate(ragged[::4])
    ]
    scores = score_items(model, tiny.tokenizer, [*with_choices, *ragged], OPTIONS)
    alone = score_items(
        model, tiny.tokenizer, [replace(i, choices=()) for i in with_choices], OPTIONS
    )
    assert_same_scores(tuple(replace(s, choice=-1) for s in scores[: len(with_choices)]), alone)
    for item, score in zip(with_choices, scores, strict=False):
        singles = [replace(item, id=o, reference=o, choices=()) for o in options]
        each = score_items(model, tiny.tokenizer, singles, OPTIONS)
        assert score.output is not None
        expected = [-s.loss * s.tokens for s in each]
        assert list(score.output.choices) == pytest.approx(expected, abs=1e-4)
        assert score.choice == max(range(3), key=expected.__getitem__)
    assert all(score.choice == -1 for score in scores[len(with_choices) :])
