import math
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from phi3_lora_qa.report.safe_text import (
    MINUS,
    NOTHING,
    anchor,
    cut,
    duration,
    format_timestamp,
    number,
    one_line,
    plain,
    visible,
)

ANY_TEXT = st.text(st.characters(categories=None), max_size=80)


@given(ANY_TEXT)
def test_visible_text_can_be_encoded_and_contains_nothing_misleading(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    kept = {"\n", "\t", "\u200c", "\u200d"}
    hidden = [c for c in shown if unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE")]
    controls = [c for c in shown if unicodedata.category(c) == "Cc" and c not in kept]
    assert not hidden
    assert not controls


def test_visible_text_names_what_it_hides_and_keeps_what_languages_need() -> None:
    assert visible("a\x00b\u202ec\ud800d\U000e0041") == "a⟨U+0000⟩b⟨U+202E⟩c⟨U+D800⟩d⟨U+E0041⟩"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    for kept in (
        "line\n\ttab",
        family,
        "\u0645\u06cc\u200c\u062e\u0648",
        "\u05e9\u05dc\u05d5\u05dd",
        "a\u00a0b",
    ):
        assert visible(kept) == kept


def test_one_line_text_is_bounded_and_has_no_breaks() -> None:
    assert one_line("a\n\n b\tc", 80) == "a b c"
    assert one_line("x" * 10**6, 20) == "x" * 19 + "…"


def test_a_cut_text_knows_how_long_it_was() -> None:
    assert cut("abc", 3) == cut("abc", 9)
    piece = cut("abcd", 3)
    assert (piece.text, piece.whole, piece.is_cut) == ("abc", 4, True)


def test_numbers_are_short_and_carry_their_sign() -> None:
    shown = [number(v) for v in (0.0, 1.84249, -0.0213, 0.00412, 3.1e-7, 751.93, 8)]
    assert shown == ["0.000", "1.842", f"{MINUS}0.021", "0.0041", "3.1e-07", "751.9", "8"]
    assert number(0.5, signed=True) == "+0.500"
    assert number(-math.inf, signed=True) == f"{MINUS}∞"
    assert number(math.nan) == "NaN"
    assert number("nan") == "nan"


def test_durations_and_timestamps_are_readable() -> None:
    assert [duration(v) for v in (0.312, 12.4, 125, "nan")] == [
        "0.31 s",
        "12 s",
        "2 min 5 s",
        NOTHING,
    ]
    assert format_timestamp("2026-11-24T07:40:12+00:00") == "2026-11-24 07:40:12 UTC"
    assert format_timestamp("not a time") == "not a time"


def test_plain_values_lose_no_digit_that_decides() -> None:
    assert plain(1e-05) == "1e-05"
    assert plain(0.05) == "0.05"
    assert plain([1, "a", True]) == "1, a, yes"
    assert plain(None) == "none"
    assert plain({"a": [1]}).splitlines()[1].strip() == '"a": ['


@given(ANY_TEXT, ANY_TEXT)
def test_anchors_of_different_items_differ_and_are_valid_ids(one: str, other: str) -> None:
    assert (anchor("item", one) == anchor("item", other)) == (one == other)
    assert not set(anchor("item", one)) - set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    )
