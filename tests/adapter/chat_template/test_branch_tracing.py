"""Tracing records the branches of a template, and does not change its output."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter.chat_template.branch_tracing import MAX_CONDITIONS, BranchTrace, Hint
from phi3_lora_qa.adapter.chat_template.conversation_generation import ordinary_inputs
from tests.adapter.chat_template.builders import TOKENS, inputs_for, traced
from tests.adapter.chat_templates import FEATURES, HEALTHY
from tests.adapter.poisoned_templates import CONDITIONS, SHAPES, poisoned
from tests.adapter.tiny_base import TEMPLATE

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("template", [*FEATURES.values(), *HEALTHY.values()])
def test_tracing_does_not_change_the_output(template: str) -> None:
    one = traced(template)
    for case in inputs_for(template):
        one.clock.fixed_text, one.clock.choice = case.clock_text, case.choice
        assert one.text(case.variables) == one.text(case.variables, untraced=True)


def test_a_onecannot_see_the_tracing_filters() -> None:
    guess = "{{ 'truth' is filter }}{{ 'compare' is filter }}{{ [1] | map('upper') | list }}"
    one = traced(guess)
    assert one.text({}) == one.text({}, untraced=True)


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.sampled_from([*CONDITIONS.values()]), st.sampled_from([*SHAPES.values()]))
def test_tracing_does_not_change_any_condition(condition: str, shape: str) -> None:
    one = traced(poisoned(shape, condition, TEMPLATE))
    for case in ordinary_inputs(TOKENS):
        assert one.text(case.variables) == one.text(case.variables, untraced=True)


def test_a_condition_is_covered_when_all_required_outcomes_are_seen() -> None:
    one = traced("{% if name == 'a' %}x{% endif %}")
    assert not one.trace.is_covered()
    assert one.text({"name": "b"}) == ""
    assert {condition.line for condition in one.trace.uncovered()} == {1}
    assert Hint("eq", "b", "a") in one.trace.hints
    assert one.text({"name": "a"}) == "x"
    assert one.trace.has_new
    assert one.trace.uncovered() == []
    assert one.trace.is_covered()
    assert one.text({"name": "a"}) == "x"
    assert not one.trace.has_new


def test_a_search_is_recorded_with_its_needle() -> None:
    one = traced("{{ text.startswith('gold') }}")
    assert one.text({"text": "silver"}) == "False"
    assert one.trace.hints == [Hint("in", "gold", "silver")]


def test_a_table_is_covered_when_all_keys_and_a_missing_one_were_read() -> None:
    trace = BranchTrace()
    for key in ("a", "b"):
        trace.record_lookup(0, {"a": 1, "b": 2}, key)
    assert trace.outcomes[0] == {True}
    trace.record_lookup(0, {"a": 1, "b": 2}, "c")
    assert trace.outcomes[0] == {True, False}


def test_a_template_that_fails_has_no_text() -> None:
    assert traced("{{ 1 / 0 }}").text({}) is None
    assert traced("{{ raise_exception('no') }}").text({}) is None


def test_a_template_with_too_many_conditions_is_an_error() -> None:
    many = "{% if messages %}{% endif %}" * (MAX_CONDITIONS + 1)
    with pytest.raises(ValueError, match=f"more than {MAX_CONDITIONS} conditions"):
        traced(many)
