"""Templates with the same normal form have the same output."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter.chat_template.conversation_generation import ordinary_inputs
from tests.adapter.chat_template.builders import TOKENS, traced
from tests.adapter.poisoned_templates import HARMLESS
from tests.adapter.tiny_base import TEMPLATE

pytestmark = pytest.mark.slow

PIECES = (
    "{{ m.content }}", "{{ m['content'] }}", "{{ 'a' + m.role }}", "{{ m.role }}", "a", " ", "\n",
    "{% generation %}x{% endgeneration %}", "x", "{% if loop.first %}b{% endif %}", "{{ 'a' }}",
    "{{- m.role }}", "{% if m.role == 'user' %}u{% elif true %}v{% endif %}",
    "{% if m.role == 'user' %}u{% else %}{% if true %}v{% endif %}{% endif %}", "{{ 1 + 2 }}", "3",
    "{{ m.role ~ 'a' }}", "{# x #}", "{{ m.role | upper }}", "{{ m.items }}", "{{ m['items'] }}",
    "{% generation %}{% set y = m.role %}{{ y }}{% endgeneration %}", "{{ y }}", "{{ kwargs }}",
    "{% set y = m.role %}{{ y }}", "{% generation %}{{ kwargs }}{% endgeneration %}",
)  # fmt: skip


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map("".join), min_size=8, max_size=8))
def test_templates_with_the_same_form_have_the_same_output(bodies: list[str]) -> None:
    texts: dict[str, list[str]] = {}
    for body in bodies:
        one = traced(f"{{% for m in messages %}}{body}{{% endfor %}}")
        cases = list(ordinary_inputs(TOKENS))[:12]
        found = [
            re.sub("0x[0-9a-f]+", "", f"{one.text(c.variables, untraced=True)}") for c in cases
        ]
        assert texts.setdefault(one.form, found) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{{ a.b }}", "{{ a['b'] }}"),
        ("a{{ 'b' }}", "{{ 'a' ~ 'b' }}"),
        (
            "{% if a %}x{% elif b %}y{% endif %}",
            "{% if a %}x{% else %}{% if b %}y{% endif %}{% endif %}",
        ),
        ("{% generation %}{{ a }}{% endgeneration %}", "{{ a }}{# #}"),
    ],
)
def test_differences_of_syntax_do_not_change_the_form(one: str, other: str) -> None:
    assert traced(one).form == traced(other).form


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{{ a.items }}", "{{ a['items'] }}"),
        ("{{ 1 }}", "{{ '1' }}"),
        ("{{ 1 }}", "{{ true }}"),
        ("{% generation %}{{ kwargs }}{% endgeneration %}", "{{ kwargs }}"),
    ],
)
def test_different_templates_have_different_forms(one: str, other: str) -> None:
    assert traced(one).form != traced(other).form


def test_a_name_that_is_set_in_a_mark_is_local_to_it() -> None:
    base = "{% set rule = messages[0].content %}{{ rule }}" + TEMPLATE
    marked = base.replace("{% set", "{% generation %}{% set", 1).replace(
        "%}{{ rule", "%}{% endgeneration %}{{ rule", 1
    )
    assert traced(marked).form != traced(base).form
    assert traced(HARMLESS["a mark"]).form == traced(TEMPLATE).form
