import pytest

from phi3_lora_qa.unicode_surrogates import escape_surrogates


@pytest.mark.parametrize("text", ["", "plain", "é漢😀", "a\nb\\u0041"])
def test_text_that_utf8_can_encode_is_unchanged(text: str) -> None:
    assert escape_surrogates(text) == text


def test_a_lone_surrogate_is_spelled_out() -> None:
    assert escape_surrogates("a\ud83dz") == "a\\ud83dz"
    escape_surrogates("\udcff").encode("utf-8")
