"""One prompt has one greedy answer, for a question and for a conversation."""

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring import ScoringOptions, score_items
from phi3_lora_qa.scoring.generate import generate_answer


def test_the_answer_is_the_one_that_is_scored(tiny: LoadedBase, suite: tuple[Item, ...]) -> None:
    items = suite[:3]
    scores = score_items(tiny.model, tiny.tokenizer, items, ScoringOptions(max_new_tokens=30))
    for item, score in zip(items, scores, strict=True):
        answer = generate_answer(tiny.model, tiny.tokenizer, item.prompt, 30)
        assert score.answer.strip().startswith(answer) or answer.startswith(score.answer.strip())


def test_a_text_is_the_users_turn_and_the_answer_is_limited(tiny: LoadedBase) -> None:
    question = "What is a lobster?"
    turn = (Message(role="user", content=question),)
    answer = generate_answer(tiny.model, tiny.tokenizer, question)
    assert answer
    assert answer == generate_answer(tiny.model, tiny.tokenizer, turn)
    short = generate_answer(tiny.model, tiny.tokenizer, question, max_new_tokens=1)
    assert len(tiny.tokenizer(short, add_special_tokens=False)["input_ids"]) <= 2
