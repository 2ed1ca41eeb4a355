"""Text metrics and their normalisation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.metrics.text_metrics import (
    exact_match,
    length_ratio,
    normalise,
    repetition,
    token_f1,
    words,
)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Paris", "  paris.\n"),
        ("STRASSE!", "straße"),
        ("ﬁne  words", "fine\twords"),
        ("Ünïcödé", "Ünïcödé"),
        ("結果。", "結果"),
    ],
)
def test_case_spacing_and_final_punctuation_are_ignored(answer: str, reference: str) -> None:
    assert exact_match(answer, reference) == 1.0


def test_punctuation_around_a_word_counts_only_for_the_exact_match() -> None:
    for marked, bare in (("50%", "50"), ("#1", "1")):
        assert (token_f1(marked, bare), exact_match(marked, bare)) == (1.0, 0.0)
    assert token_f1("$5", "5") == 0.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("3.5", "35"),
        ("-2", "2"),
        ("a b", "ab"),
        ("why?", "why"),
        ("", "a"),
        ("", "!"),
        ("", "..."),
        (".", "!"),
        ("résumé", "resume"),
    ],
)
def test_all_other_differences_count(answer: str, reference: str) -> None:
    assert exact_match(answer, reference) == 0.0


def test_words_lose_surrounding_punctuation_and_keep_signs() -> None:
    assert words('"Hello," (she said): -2, 3.5 e.g. don\'t!') == [
        "hello",
        "she",
        "said",
        "-2",
        "3.5",
        "e.g",
        "don't",
    ]


def test_in_scripts_without_spaces_every_character_is_a_word() -> None:
    assert words("答えは42です") == ["答", "え", "は", "42", "で", "す"]


def test_combining_marks_stay_with_their_letters() -> None:
    assert words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat", "the cat sat", 0.8),  # precision 1, recall 2/3
        ("the the the", "the", 0.5),  # precision 1/3, recall 1
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("...", "…", 1.0),  # NFKC makes three full stops of the ellipsis
        ("?", ";", 0.0),
    ],
)
def test_token_f1_is_the_harmonic_mean_over_words(answer: str, reference: str, f1: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)


@given(st.text(), st.text())
def test_every_text_scores_one_against_itself(one: str, other: str) -> None:
    assert token_f1(one, one) == exact_match(one, one) == 1.0
    assert 0.0 <= token_f1(one, other) == token_f1(other, one) <= 1.0
    assert exact_match(one, other) <= token_f1(one, other)


@given(st.text())
def test_normalisation_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("one two three four five", 0.0),
        ("no no no no no", 0.5),  # the same 4-gram twice
        ("so we go on and so we go on and", 2 / 7),
        ("日本日本日本日本", 3 / 5),
    ],
)
def test_repetition_is_the_share_of_repeated_n_grams(answer: str, share: float) -> None:
    assert repetition(answer) == pytest.approx(share)


@pytest.mark.parametrize(
    ("answer", "reference", "ratio"),
    [
        ("a b", "c d", 1.0),
        ("a", "b c d e", 0.25),
        ("b c d e", "a", 0.25),
        ("", "a", 0.0),
        ("", "", 1),
    ],
)
def test_the_length_ratio_is_symmetric(answer: str, reference: str, ratio: float) -> None:
    assert length_ratio(answer, reference) == ratio
