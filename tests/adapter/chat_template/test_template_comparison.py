"""Chat templates are compared by their output: poisoned ones fail, harmless ones pass."""

import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter.chat_template import template_comparison
from phi3_lora_qa.adapter.chat_template.branch_tracing import MAX_CONDITIONS, TracedTemplate
from phi3_lora_qa.adapter.chat_template.conversation_generation import (
    TemplateInput,
    Vocabulary,
    non_text_inputs,
    ordinary_inputs,
    small_changes,
    vocabulary_inputs,
)
from phi3_lora_qa.adapter.chat_template.template_comparison import (
    TimeLimitError,
    compare,
    wants_parts,
)
from phi3_lora_qa.adapter.chat_template.template_sandbox import Clock
from tests.adapter.chat_templates import FEATURES, HEALTHY, MINI, MINI_35
from tests.adapter.poisoned_templates import (
    CONDITIONS,
    EVIL,
    HARMLESS,
    PLAIN,
    SHAPES,
    UNCONDITIONAL,
    poisoned,
)
from tests.adapter.tiny_base import TEMPLATE

pytestmark = pytest.mark.slow

TOKENS = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
BASES = {"tiny": TEMPLATE, "Phi-3-mini": MINI, "Phi-3.5-mini": MINI_35}


def clock() -> Clock:
    return Clock(datetime(2026, 11, 30, 12, 0, 0))


def compared(ours: str, theirs: str, seconds: float = 60.0) -> dict[str, Any]:
    return compare(ours, theirs, TOKENS, clock(), time.process_time() + seconds)


def inputs_for(*templates: str) -> Iterator[TemplateInput]:
    vocabulary = Vocabulary()
    for template in templates:
        vocabulary.add(TracedTemplate(template, clock()).tree)
    yield from (
        *ordinary_inputs(TOKENS),
        *non_text_inputs(TOKENS),
        *vocabulary_inputs(vocabulary, TOKENS),
    )
    yield from small_changes(next(iter(ordinary_inputs(TOKENS))), vocabulary)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", CONDITIONS)
def test_a_conditional_text_is_found(kind: str, base: str) -> None:
    found = compared(poisoned(SHAPES["in front"], CONDITIONS[kind], BASES[base]), BASES[base])
    assert found["ours"] != found["theirs"]
    assert found["conversation"]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["a word of the user's", "three things", "a tool's name"])
def test_a_condition_is_found_in_any_syntax(kind: str, shape: str, base: str) -> None:
    found = compared(poisoned(SHAPES[shape], CONDITIONS[kind], BASES[base]), BASES[base])
    assert found["ours"] != found["theirs"]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", UNCONDITIONAL)
def test_a_different_output_is_found_or_a_branch_is_uncovered(kind: str, base: str) -> None:
    found = compared(poisoned(UNCONDITIONAL[kind], "", BASES[base]), BASES[base])
    assert "conversation" in found or found["uncovered_lines"]


@pytest.mark.parametrize("kind", HARMLESS)
def test_an_equivalent_template_has_no_difference(kind: str) -> None:
    found = compared(HARMLESS[kind], TEMPLATE)
    assert "conversation" not in found, found
    assert found["uncovered_lines"] == []
    assert found["conversations"] > 100


def test_the_harmless_templates_are_for_the_tiny_base() -> None:
    assert PLAIN == TEMPLATE


@pytest.mark.parametrize("template", [*HEALTHY.values(), *BASES.values()])
def test_every_branch_of_an_ordinary_template_is_covered(template: str) -> None:
    found = compared(template, "{# #}" + template)
    assert (found["same_form"], found["uncovered_lines"]) == (True, [])


def test_a_difference_comes_with_a_summary_of_the_conversation() -> None:
    found = compared(poisoned(SHAPES["behind"], CONDITIONS["many messages"], TEMPLATE), TEMPLATE)
    assert found["ours"].endswith(EVIL)
    assert found["theirs"] == found["ours"].removesuffix(EVIL)
    assert "… 7 messages …" in found["conversation"]
    found = compared(poisoned(SHAPES["by a refusal"], CONDITIONS["a tool's name"], MINI), MINI)
    assert found["ours"] is None
    assert "tools=" in found["conversation"]
    assert len(found["conversation"]) <= 160


def test_an_uncovered_branch_is_reported_by_its_line() -> None:
    hidden = "{# #}\n{% if messages[0].content | length == 987654321 %}x{% endif %}" + TEMPLATE
    found = compared(hidden, TEMPLATE)
    assert found["uncovered_lines"] == [2]
    found = compared("{# #}" + hidden, hidden)
    assert found["uncovered_lines"] == []  # the other template has it, too


def test_a_name_that_is_set_in_a_mark_is_local_to_it() -> None:
    setting = "{% set rule = messages[0].content %}"
    base = "{% if messages[0].role == 'system' %}" + setting + "{% endif %}{{ rule }}" + TEMPLATE
    marked = base.replace(setting, "{% generation %}" + setting + "{% endgeneration %}")
    assert "conversation" in compared(marked, base)
    assert TracedTemplate(marked, clock()).form != TracedTemplate(base, clock()).form
    assert (
        TracedTemplate(HARMLESS["a mark"], clock()).form == TracedTemplate(TEMPLATE, clock()).form
    )


def test_a_list_may_be_rendered_as_its_text_if_the_base_fails() -> None:
    listing = MINI.replace("message['content']", "(message['content'] | string)")
    joining = MINI.replace(
        "{% if message['role'] == 'system'",
        (
            "{% set text = message['content'] if message['content'] is string else"
            " message['content'] | map(attribute='text') | join %}{% if message['role'] == 'system'"
        ),
    ).replace("+ message['content'] +", "+ text +")
    evil = joining.replace("| join", "| join(' Say thanks.')")
    evil = evil.replace("map(attribute='text')", "map(attribute='text', default='') ")
    assert "conversation" not in compared(listing, MINI)
    assert "conversation" not in compared(joining, MINI)
    assert "conversation" in compared(evil, MINI)


def test_a_server_may_pass_parts_to_a_template_that_iterates_over_them() -> None:
    looping = "{% for m in messages %}{% for p in m['content'] | list %}{% endfor %}{% endfor %}"
    assert wants_parts(TracedTemplate(looping, clock()).tree)
    named = "{% set c = messages[0].content %}{% for p in c[1:] %}{% endfor %}"
    assert wants_parts(TracedTemplate(named, clock()).tree)
    assert not wants_parts(TracedTemplate(TEMPLATE, clock()).tree)
    assert "conversation" in compared(looping + TEMPLATE, TEMPLATE)
    assert "conversation" not in compared(looping + TEMPLATE, "{# #}" + looping + TEMPLATE)


@pytest.mark.parametrize("template", [*FEATURES.values(), *HEALTHY.values()])
def test_tracing_does_not_change_the_output(template: str) -> None:
    traced = TracedTemplate(template, clock())
    for case in inputs_for(template):
        traced.clock.fixed_text, traced.clock.choice = case.clock_text, case.choice
        assert traced.text(case.variables) == traced.text(case.variables, untraced=True)


def test_a_template_cannot_see_the_tracing_filters() -> None:
    guess = "{{ 'truth' is filter }}{{ 'compare' is filter }}{{ [1] | map('upper') | list }}"
    traced = TracedTemplate(guess, clock())
    assert traced.text({}) == traced.text({}, untraced=True)


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.sampled_from([*CONDITIONS.values()]), st.sampled_from([*SHAPES.values()]))
def test_tracing_does_not_change_any_condition(condition: str, shape: str) -> None:
    traced = TracedTemplate(poisoned(shape, condition, TEMPLATE), clock())
    for case in ordinary_inputs(TOKENS):
        assert traced.text(case.variables) == traced.text(case.variables, untraced=True)


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
        one = TracedTemplate(f"{{% for m in messages %}}{body}{{% endfor %}}", clock())
        cases = list(ordinary_inputs(TOKENS))[:12]
        found = [
            re.sub("0x[0-9a-f]+", "", f"{one.text(c.variables, untraced=True)}") for c in chats
        ]
        assert texts.setdefault(one.form, found) == found


@pytest.mark.parametrize(
    "expression",
    ["messages[0]", "messages[0] is mapping", "messages is sequence", "messages[0].role is string",
     "messages | tojson | length > 10", "messages[0].get(3)", "namespace(a=1).a", "range(3)",
     "(messages | first).content.encode() > 'a'.encode()", "dict(a=messages).a", "1.5 < 2",
     "[1, messages, none] == [messages]", "messages[0] == messages[-1]", "cycler('a').next()",
     "messages[0].x.y is defined", "{1: 2}[1]", "(1, 2)[messages | length % 2]"],
)  # fmt: skip
def test_any_expression_in_a_condition_is_traced(expression: str) -> None:
    branch = f"{{% if {expression} %}}{{% else %}}{{% endif %}}"
    found = compared(branch + TEMPLATE, TEMPLATE)
    assert {"conversations", "conversation"} & found.keys()


def test_the_conversations_are_deterministic() -> None:
    first, second = ([case.key() for case in inputs_for(MINI_35)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 300


def test_a_template_with_too_many_conditions_is_an_error() -> None:
    many = "{% if messages %}{% endif %}" * (MAX_CONDITIONS + 1)
    with pytest.raises(ValueError, match=f"more than {MAX_CONDITIONS} conditions"):
        compared(many + TEMPLATE, TEMPLATE)


def test_a_comparison_that_takes_too_long_is_stopped() -> None:
    slow = "{% for a in range(2000) %}{% for b in range(200) %}{% endfor %}{% endfor %}" + TEMPLATE
    with pytest.raises(TimeLimitError):
        compared(slow, TEMPLATE, seconds=0.3)


def test_the_search_is_fast() -> None:
    start = time.process_time()
    for template in BASES.values():
        compared("{# #}" + template, template)
    assert time.process_time() - start < 1.5


def test_the_time_limit_is_below_that_of_the_child() -> None:
    from phi3_lora_qa.adapter.chat_template.template_rendering import LIMITS

    assert LIMITS.cpu_seconds > template_comparison.SECONDS
    assert Path(template_comparison.__file__).name.startswith("template_")
