import time

from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.report.safe_text import TEXT_LIMIT
from phi3_lora_qa.report.word_diff import word_diff


def changed(segments: object) -> list[str]:
    return [s.text for s in segments if s.changed]  # type: ignore[attr-defined]


def test_only_the_words_that_differ_are_marked() -> None:
    base, tuned = word_diff("Seven bells hang here.", "Seven drums hang here!")
    assert changed(base) == ["bells", "."]
    assert changed(tuned) == ["drums", "!"]


def test_a_space_between_changed_words_belongs_to_the_change() -> None:
    base, _ = word_diff("a red fox ran", "a blue dog ran")
    assert changed(base) == ["red fox"]


def test_equal_answers_have_no_mark_and_an_empty_one_has_no_segment() -> None:
    base, tuned = word_diff("same", "same")
    assert not changed(base)
    assert not changed(tuned)
    assert word_diff("", "x")[0] == ()


@given(st.text(max_size=200), st.text(max_size=200))
def test_the_segments_joined_are_the_answers(base: str, tuned: str) -> None:
    left, right = word_diff(base, tuned)
    assert "".join(s.text for s in left) == base
    assert "".join(s.text for s in right) == tuned
    assert bool(changed(left) or changed(right)) == (base != tuned)


def test_hostile_answers_of_full_length_are_compared_within_a_second() -> None:
    started = time.perf_counter()
    for one, other in (("a b", "b a"), ("x", "y"), (". ", ".. "), ("a", "a ")):
        repeated = [(text * TEXT_LIMIT)[:TEXT_LIMIT] for text in (one, other)]
        word_diff(*repeated)
    assert time.perf_counter() - started < 4
