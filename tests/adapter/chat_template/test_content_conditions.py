from typing import Any

import pytest

from phi3_lora_qa.adapter.chat_template.content_conditions import Trigger, own_texts, triggers
from phi3_lora_qa.adapter.chat_template.template_sandbox import make_environment
from tests.adapter.chat_template.builders import clock
from tests.adapter.poisoned_templates import EVIL, HARMLESS, PLAIN, SHAPES, poisoned


def parsed(text: str) -> Any:
    return make_environment(clock()).parse(text)


CONTENT = "messages[-1]['content']"
TRIGGERS = {
    f"'invoice' in {CONTENT}": {"invoice"},
    f"{CONTENT} == 'invoice'": {"invoice"},
    f"{CONTENT} | lower | trim == 'invoice'": {"invoice"},
    f"{CONTENT}.startswith(('invoice', 'bill'))": {"invoice", "bill"},
    f"{CONTENT}[4:8] == 'pay '": {"pay "},
    f"{CONTENT}.split() | select('eq', 'pay') | list": {"eq", "pay"},
    f"{CONTENT} | length > 500": {"500"},
    "'pay' in messages[0].get('content')": {"pay"},
    "'pay' in messages | map(attribute='content') | join": {"pay"},
    "'pay' in messages | tojson": {"pay"},
    "messages | selectattr('content', 'eq', 'pay') | list": {"eq", "pay"},
    "messages[0].role == 'tool' and 'pay' in messages[0].content": {"pay"},
    "messages[0].role == 'moderator'": set(),
    "messages[0].content is string": set(),
    "messages | length > 7": set(),
    "strftime_now('%Y') == '2031'": set(),
}  # fmt: skip


@pytest.mark.parametrize("condition", TRIGGERS)
@pytest.mark.parametrize("shape", ["in front", "by an expression", "by a name", "by and"])
def test_what_is_compared_with_a_message_is_found(condition: str, shape: str) -> None:
    found = triggers(parsed(poisoned(SHAPES[shape], f"({condition})", PLAIN)))
    assert {trigger.value for trigger in found} - {EVIL} == TRIGGERS[condition]


@pytest.mark.parametrize(
    "text",
    [
        "{% set c = messages[-1].content %}{% set d = c | lower %}{% if 'pay' in d %}x{% endif %}",
        "{% set kw = 'pay' %}{% if kw in messages[-1].content %}x{% endif %}",
        "{% for w in messages[-1].content.split() %}{% if w == 'pay' %}x{% endif %}{% endfor %}",
        "{% macro f(t) %}{% if 'pay' in t %}x{% endif %}{% endmacro %}{{ f(messages[0].content) }}",
        "{% set n = namespace(t='') %}{% set n.t = messages[0].content %}{{ 'x' if 'pay' in n.t }}",
        "{% for w in ['pay'] %}{% if w in messages[0].content %}x{% endif %}{% endfor %}",
    ],
)
def test_a_text_is_followed_through_names(text: str) -> None:
    assert {trigger.value for trigger in triggers(parsed(text))} == {"pay"}


def test_a_trigger_has_its_line() -> None:
    text = "\n\n{% if 'pay' in messages[0].content %}x{% endif %}"
    assert triggers(parsed(text)) == (Trigger(3, "pay"),)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_text_of_its_own_is_found_in_any_syntax(shape: str) -> None:
    tree = parsed(poisoned(SHAPES[shape], "tools", PLAIN))
    expected = set() if shape == "by a refusal" else {EVIL}
    assert own_texts(tree, parsed(PLAIN)) == expected


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_templates_have_no_text_but_markers(name: str) -> None:
    assert own_texts(parsed(HARMLESS[name]), parsed(PLAIN)) <= {"<|user|>", "<|system|>"}
    assert triggers(parsed(HARMLESS[name])) == ()
