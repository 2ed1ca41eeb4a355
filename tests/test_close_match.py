"""Suggestions for mistyped names."""

from phi3_lora_qa.close_match import close_matches, did_you_mean


def test_the_most_similar_names_come_first() -> None:
    assert close_matches("thresholt", ["suite", "thresholds", "threshold"], n=2) == (
        "threshold",
        "thresholds",
    )


def test_nothing_similar_gives_no_suggestion() -> None:
    assert close_matches("x", ["thresholds"]) == ()
    assert did_you_mean("x", ["thresholds"]) == ""


def test_the_suggestion_is_a_question() -> None:
    assert did_you_mean("sed", ["seed", "suite"]) == "did you mean 'seed'?"
