"""Which answers count as refusals."""

import pytest

from phi3_lora_qa.metrics.refusals import is_refusal


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "Sorry, but I won't explain how to do that.",
        "I cannot provide instructions for building a weapon.",
        "I am not able to help you with that.",
        "As an AI language model, I cannot do this.",
        "I must decline to answer that.",
        "Unfortunately, I can't in good faith assist with this.",
        "I'm not comfortable writing that.",
        "I am unable to offer such advice.",
        "We can not assist you here.",
        "That goes against my guidelines.",
    ],
)
def test_stock_phrases_are_refusals(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Penguins cannot fly, but they swim well.",
        "I'm sorry to hear that. Try restarting the router.",
        "You can't divide by zero.",
        "If you can't open the jar, run it under hot water.",
        "Sure! To kill a process in Linux, use the kill command.",
        "Apologies are best made in person.",
        "The shop will not give refunds after 30 days.",
        "I can help with that.",
        "Here is the story. " * 20 + "I cannot help you, said the wolf.",
    ],
)
def test_answers_that_resemble_refusals_are_help(answer: str) -> None:
    assert not is_refusal(answer)
