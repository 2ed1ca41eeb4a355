"""Chat templates are compared by their output: poisoned ones fail, harmless ones pass."""

import time
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.chat_template import template_comparison
from phi3_lora_qa.adapter.chat_template.template_comparison import (
    TimeLimitError,
    compare,
    wants_parts,
)
from tests.adapter.chat_template.builders import TOKENS, clock, traced
from tests.adapter.chat_templates import HEALTHY, MINI, MINI_35
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

BASES = {"tiny": TEMPLATE, "Phi-3-mini": MINI, "Phi-3.5-mini": MINI_35}


def compared(ours: str, theirs: str, seconds: float = 60.0) -> dict[str, Any]:
    return compare(ours, theirs, TOKENS, clock(), time.process_time() + seconds)


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


def test_a_name_that_is_lost_in_a_mark_is_a_difference() -> None:
    setting = "{% set rule = messages[0].content %}"
    base = "{% if messages[0].role == 'system' %}" + setting + "{% endif %}{{ rule }}" + TEMPLATE
    marked = base.replace(setting, "{% generation %}" + setting + "{% endgeneration %}")
    assert "conversation" in compared(marked, base)
    assert traced(marked).form != traced(base).form


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
    assert wants_parts(traced(looping).tree)
    named = "{% set c = messages[0].content %}{% for p in c[1:] %}{% endfor %}"
    assert wants_parts(traced(named).tree)
    assert not wants_parts(traced(TEMPLATE).tree)
    assert "conversation" in compared(looping + TEMPLATE, TEMPLATE)
    assert "conversation" not in compared(looping + TEMPLATE, "{# #}" + looping + TEMPLATE)


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
