"""However the work is shared and guessed, losses and answers stay what they are."""

from dataclasses import replace
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import ItemScore, ScoringOptions, score_items
from phi3_lora_qa.scoring.item_outputs import ItemOutput

OPTIONS = ScoringOptions(max_new_tokens=40, token_budget=600)


def assert_alike(one: tuple[ItemScore, ...], other: tuple[ItemScore, ...]) -> None:
    assert [(s.item_id, s.answer, s.stopped, s.error) for s in one] == [
        (s.item_id, s.answer, s.stopped, s.error) for s in other
    ]
    assert [s.loss for s in one] == pytest.approx([s.loss for s in other], abs=1e-5)


@pytest.mark.slow
def test_a_guess_changes_no_answer(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    plain = score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS)

    def guessed(change: Any) -> tuple[ItemScore, ...]:
        others = [replace(s, reading=change(s.reading)) for s in plain]
        return score_items(random_phi3, tiny.tokenizer, ragged, OPTIONS, base=others)

    changes = {
        "right": lambda r: r,
        "too short": lambda r: replace(r, answer=r.answer[:3]),
        "wrong at once": lambda r: replace(r, answer=tuple(reversed(r.answer))),
        "wrong later": lambda r: replace(r, answer=(*r.answer[:5], 1, 2, 3)),
        "too long": lambda r: replace(r, answer=(*r.answer, *range(50))),
        "none": lambda r: replace(r, answer=()),
        "no outlook": lambda r: replace(r, outlook=None),
    }
    for name, change in changes.items():
        scores = guessed(change)
        assert_alike(scores, plain)
        for score in scores:
            assert isinstance(score.reading, ItemOutput)
            if name == "no outlook":
                assert score.reading.divergence != score.reading.divergence
            else:
                assert score.reading.divergence < 1e-6
                assert score.reading.agreement == 1.0


def test_a_shared_beginning_is_read_once_and_changes_nothing(
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
    assert_alike(score_items(random_phi3, tiny.tokenizer, items, OPTIONS), together)
    handle.remove()
    prompt = len(tiny.tokenizer(system.content)["input_ids"])
    assert sum(seen) - shared > 10 * prompt


def test_an_answer_that_is_the_reference_is_made_by_no_pass_of_its_own(
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
    assert len(passes) <= 2  # what they share, if anything, and the batch


def test_a_row_that_is_not_finite_spoils_no_other(
    random_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    """A NaN in one row's keys would reach whoever is given its cells afterwards."""
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
    sick = Item(id="sick", prompt=(Message(role="user", content="What is a lobster?"),),
                reference="an animal")  # fmt: skip
    options = replace(OPTIONS, token_budget=1_000_000)
    whole = score_items(poisoned, tiny.tokenizer, [sick, *ragged], options)
    healthy = score_items(random_phi3, tiny.tokenizer, ragged, options)
    kept = [s for s in whole[1:] if not s.error]
    assert whole[0].error
    assert len(kept) > len(ragged) / 2
    by_id = {s.item_id: s for s in healthy}
    assert_alike(tuple(kept), tuple(by_id[s.item_id] for s in kept))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "window", "longrope"])
def test_options_have_the_likelihood_of_a_reference_and_change_no_other_figure(
    kind: str, make_phi3: Any, tiny: LoadedBase, ragged: tuple[Item, ...]
) -> None:
    settings: dict[str, Any] = {}
    if kind == "window":
        settings = {"sliding_window": 12}
    elif kind == "longrope":
        half = 32 // 4 // 2
        factors = {"short_factor": [1.0] * half, "long_factor": [3.0] * half}
        rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
        rope["original_max_position_embeddings"] = 64
        settings = {"original_max_position_embeddings": 64, "rope_parameters": rope}
    model = make_phi3(**settings)
    options = ("a small wolf", "large", "yes, and it is the largest of all of them")
    asked = [
        replace(item, id=f"{item.id} {n}", reference=options[n % 3], choices=options)
        for n, item in enumerate(ragged[::4])
    ]
    scores = score_items(model, tiny.tokenizer, [*asked, *ragged], OPTIONS)
    alone = score_items(model, tiny.tokenizer, [replace(i, choices=()) for i in asked], OPTIONS)
    assert_alike(tuple(replace(s, choice=-1) for s in scores[: len(asked)]), alone)
    for item, score in zip(asked, scores, strict=False):
        singles = [replace(item, id=o, reference=o, choices=()) for o in options]
        each = score_items(model, tiny.tokenizer, singles, OPTIONS)
        assert score.reading is not None
        wanted = [-s.loss * s.tokens for s in each]
        assert list(score.reading.choices) == pytest.approx(wanted, abs=1e-4)
        assert score.choice == max(range(3), key=wanted.__getitem__)
    assert all(score.choice == -1 for score in scores[len(asked) :])
