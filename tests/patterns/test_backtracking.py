from phi3_lora_qa.patterns import Pattern


def steps(pattern: str, text: str, limit: int = 1_000_000, *, whole: bool = True) -> int:
    return Pattern(pattern).steps_in_re(text, limit, whole=whole)


def test_the_steps_of_an_ambiguous_pattern_double_with_each_character() -> None:
    few, more = steps("(a|a)*b", "a" * 8), steps("(a|a)*b", "a" * 9)
    assert 1.9 < more / few < 2.1


def test_a_failing_look_ahead_counts_at_every_position() -> None:
    assert steps("(?=.*b)a", "a" * 40) > 40
    assert steps("((?=.*b)|a)*", "a" * 40) > 40 * 40 / 2


def test_the_search_ends_at_the_first_match() -> None:
    assert steps("(a|a)*", "a" * 40, whole=False) < 400


def test_the_search_ends_at_its_limit() -> None:
    assert steps("(a|a)*b", "a" * 60, 500) == 501


def test_a_loop_without_a_character_ends() -> None:
    assert steps("(a*)*b", "ccc") < 100
