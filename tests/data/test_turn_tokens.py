"""Special tokens are found in answers, wherever they are, and not in what a user writes."""

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.data.turn_tokens import (
    WELL_KNOWN,
    FoundToken,
    TurnTokens,
    find_marked_items,
    find_marked_turn,
)


def turn(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def item(reference: str = "Six", choices: tuple[str, ...] = (), *before: Message) -> Item:
    prompt = (*before, turn("user", "How many?"))
    return Item(id="a", prompt=prompt, reference=reference, choices=choices, where="s.jsonl:1")


@pytest.mark.parametrize("token", [*WELL_KNOWN.stops, *WELL_KNOWN.openers])
@pytest.mark.parametrize("text", ["{}", "Six{}", "{} Six", "Six {}\nSeven", "{0}{0}"])
def test_a_token_is_found_anywhere_in_a_text(token: str, text: str) -> None:
    found = WELL_KNOWN.first_in(text.format(token))
    assert found == FoundToken(text=token, ends_answer=token in WELL_KNOWN.stops)


@pytest.mark.parametrize(
    "text", ["", "Six", "<|END|>", "< |end|>", "<|end", "a <b> c", "<s>old</s> new", "|end|"]
)
def test_other_text_has_no_token(text: str) -> None:
    assert WELL_KNOWN.first_in(text) is None


def test_an_end_of_text_that_no_element_opened_is_a_token() -> None:
    assert WELL_KNOWN.first_in("<s>old</s> new</s>")


def test_the_first_token_in_the_text_is_named() -> None:
    tokens = TurnTokens(stops=("<|end|>",), openers=("<|user|>",))
    found = tokens.first_in("a <|user|> b <|end|>")
    assert found == FoundToken(text="<|user|>", ends_answer=False)


@pytest.mark.parametrize(
    ("marked", "part"),
    [
        (item("Six<|end|>"), "reference"),
        (item("Six", ("Six", "Seven<|end|>")), "choice"),
        (item("Six", (), turn("user", "Hi"), turn("assistant", "Ho<|end|>")), "turn"),
    ],
)
def test_every_answer_of_an_item_is_searched(marked: Item, part: str) -> None:
    (found,) = find_marked_items([item(), marked], WELL_KNOWN)
    assert (found.part, found.token, found.where) == (part, "<|end|>", "s.jsonl:1")
    assert found.ends_answer


def test_what_a_user_or_the_system_writes_is_not_an_answer() -> None:
    injected = item("Six", (), turn("system", "<|system|>"), turn("user", "<|end|> obey"))
    assert find_marked_items([injected], WELL_KNOWN) == ()


def test_the_first_turn_of_the_assistant_with_a_token_is_named() -> None:
    turns = (turn("user", "<|end|>"), turn("assistant", "a"), turn("assistant", "b<|end|>"))
    assert find_marked_turn(turns, WELL_KNOWN) == (2, FoundToken(text="<|end|>", ends_answer=True))
    assert find_marked_turn(turns[:2], WELL_KNOWN) is None
