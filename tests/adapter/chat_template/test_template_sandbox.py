"""The sandbox renders as transformers does, and describes the errors of a template."""

from typing import Any

import pytest
from jinja2.exceptions import TemplateSyntaxError, UndefinedError

from phi3_lora_qa.adapter.chat_template.template_sandbox import (
    MAX_MESSAGE,
    TooLongError,
    explain,
    make_environment,
    render,
    truncate,
)
from tests.adapter.chat_template.builders import clock


def text_of(template: str, **variables: Any) -> str | dict[str, str]:
    return render(make_environment(clock()).from_string(template), variables)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ {'b': '<é>'} | tojson }}", '{"b": "<é>"}'),
        ("{% set n = namespace(a=1) %}{% set n.a = 2 %}{{ n.a }}", "2"),
        ("{{ dict(a=1).a }}{{ dict.fromkeys(['b']) }}", "1{'b': None}"),
        ("{% generation %}{{ 1 }}{% endgeneration %}", "1"),
        ("{% for i in [1, 2] %}{{ i }}{% break %}{% endfor %}", "1"),
        ("{{ strftime_now('%Y') }}", "2026"),
    ],
)
def test_the_extensions_of_transformers_are_available(template: str, text: str) -> None:
    assert text_of(template) == text


def test_the_clock_decides_the_time_and_the_random_choice() -> None:
    own = clock()
    own.fixed_text, own.choice = "May", 4
    template = make_environment(own).from_string("{{ strftime_now('%d') }}{{ 'abc' | random }}")
    assert render(template, {}) == "Mayb"
    assert own.last_text == "May"


def test_a_refusal_is_returned_and_not_raised() -> None:
    assert text_of("{{ raise_exception('no') }}") == {"refusal": "no"}


def test_a_text_above_the_limit_is_an_error() -> None:
    template = make_environment(clock()).from_string("{{ 'x' }}{{ 'yz' }}")
    assert render(template, {}, 3) == "xyz"
    with pytest.raises(TooLongError):
        render(template, {}, 2)


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (MemoryError(), "needed more than 512 MiB of memory"),
        (RecursionError(), "endless recursion, or nesting that is too deep"),
        (TooLongError(), "wrote more than 1048576 characters"),
        (TemplateSyntaxError("bad", 3), "syntax error in line 3: bad"),
        (ValueError("x"), "ValueError: x"),
        (OverflowError("Range too big."), "refused by the sandbox: Range too big."),
    ],
)
def test_an_error_is_described(error: Exception, description: str) -> None:
    assert explain(error) == description


@pytest.mark.parametrize("name", ["_a", "__class__"])
def test_a_namespace_has_no_private_attributes(name: str) -> None:
    with pytest.raises(Exception, match="a namespace has no attribute"):
        text_of("{% set n = namespace(**names) %}", names={name: 1})


def test_the_line_of_an_error_is_reported() -> None:
    with pytest.raises(UndefinedError) as caught:
        text_of("\n\n{{ no.such }}")
    assert explain(caught.value) == "UndefinedError in line 3: 'no' is undefined"


def test_a_long_message_is_truncated() -> None:
    assert truncate("x" * MAX_MESSAGE) == "x" * MAX_MESSAGE
    assert truncate("x" * 999) == "x" * (MAX_MESSAGE - 1) + "…"
