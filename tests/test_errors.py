"""Text from strangers is shown, and does nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.errors import escape


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::add-mask::e", r":\x3aadd-mask::e"),
        ("  ::error::e", r"  :\x3aerror::e"),
        ("\t::error::e", r"\t::error::e"),
        ("##[error]e", r"#\x23[error]e"),
        ("a###[error]e", r"a#\x23#[error]e"),
        ("x ##vso[task.complete]", r"x #\x23vso[task.complete]"),
        ("std::vector, phi3::static", "std::vector, phi3::static"),
        ("one # two", "one # two"),
        ("a\nb\u202ec\ud800", r"a\nb\u202ec\ud800"),
    ],
)
def test_commands_and_controls_are_shown_and_the_rest_is_as_it_was(text: str, shown: str) -> None:
    assert escape(text) == shown


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(st.text(st.sampled_from(" :#[\t\n\x1b\u202eab"), max_size=12))
def test_escaped_text_is_one_printable_line_without_a_command(text: str) -> None:
    line = escape(text)
    assert line.isprintable()
    assert "##" not in line
    assert not line.lstrip().startswith("::")
    assert escape(line) == line
