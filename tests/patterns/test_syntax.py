"""The parser: states of the automaton, and errors of the syntax."""

import pytest

from phi3_lora_qa.patterns.syntax import (
    MAX_STATES,
    Anchor,
    Parser,
    PatternError,
    State,
    is_word,
)


def parse(text: str) -> list[State]:
    states: list[State] = []
    Parser(text, states).parse()
    return states


def test_a_character_is_one_state_with_a_test() -> None:
    tests = [state.test for state in parse("a[b-d]") if state.test]
    assert [test("a") for test in tests] == [True, False]
    assert [test("c") for test in tests] == [False, True]


def test_anchors_are_states_of_their_own() -> None:
    anchors = [state.anchor for state in parse(r"^a\b$") if state.anchor]
    assert anchors == [Anchor.START, Anchor.WORD_BOUNDARY, Anchor.END]
    assert [s.anchor for s in parse(r"\A\Z") if s.anchor] == [Anchor.START, Anchor.END]


def test_a_bounded_repetition_copies_its_states() -> None:
    assert sum(state.test is not None for state in parse("a{2,5}")) == 5
    assert sum(state.test is not None for state in parse("a*")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a)", "unbalanced parenthesis"),
        ("(a", r"missing \)"),
        ("*", "nothing to repeat"),
        ("^*", "nothing to repeat"),
        ("a{2,1}", "min repeat greater than max repeat"),
        ("a{x}", "a brace that is not a repetition"),
        ("a++", "repeated or possessive quantifier"),
        ("[b-a]", "bad character range"),
        ("[[a]", "unsupported character set"),
        ("\\", "bad escape at the end"),
        (r"\q", "unsupported escape"),
        ("(?P=a)", "back references, conditions, atomic groups and these flags are not supported"),
        ("(?<=a|bc)d", "look-behind requires fixed-width pattern"),
        ("(?=a)" * 33, "the pattern has too many look-arounds"),
        ("(" * 50, "groups are nested too deeply"),
        ("a" * (MAX_STATES + 1), "the pattern is too large"),
    ],
)
def test_a_syntax_error_is_named(text: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        parse(text)


def test_a_set_may_have_only_some_ranges() -> None:
    ranges = "".join(f"{chr(n)}-{chr(n + 1)}" for n in range(200, 280, 2))
    with pytest.raises(PatternError, match="too many ranges"):
        parse(f"[{ranges}]")


def test_word_characters_are_letters_digits_and_underscores() -> None:
    assert all(map(is_word, "aé9_"))
    assert not any(map(is_word, ".- "))
