"""A mutation flips the comparison that it is made for."""

import pytest

from phi3_lora_qa.adapter.chat_template.conversation_generation import TemplateInput
from phi3_lora_qa.adapter.chat_template.conversation_mutation import mutations
from tests.adapter.chat_template.builders import traced

CASE = TemplateInput(
    {
        "messages": [
            {"role": "user", "content": "Where do 17 herons nest?", "calls": [{"name": "find"}]}
        ],
        "add_generation_prompt": False,
        "mode": "plain",
    }
)


@pytest.mark.parametrize(
    "condition",
    [
        "messages[0].content == 'gold'",
        "messages[0].content[6:10] == 'gold'",
        "'gold' in messages[0].content",
        "messages[0].content | length == 41",
        "messages[0].content.split() | length > 60",
        "messages[0].content.split('\\n') | length > 12",
        "messages | length > 7",
        "messages[0].calls[0].name == 'pay'",
        "messages[0].secret == 'x'",
        "mode == 'expert'",
        "mode is mapping",
        "other == 'x'",
        "strftime_now('%Y') == '2031'",
    ],
)
def test_some_mutation_flips_the_condition(condition: str) -> None:
    one = traced(f"{{% if {condition} %}}yes{{% else %}}no{{% endif %}}")
    cases = [CASE]
    for _ in range(2):
        found = []
        for case in cases:
            one.clock.fixed_text = case.clock_text
            assert one.text(case.variables) == "no"
            clock_text = one.clock.last_text
            for hint in list(one.trace.hints):
                found += list(mutations(case, hint, clock_text))
        for case in found:
            one.clock.fixed_text = case.clock_text
            if one.text(case.variables, untraced=True) == "yes":
                return
        cases = found[:50]
    pytest.fail("no mutation flips the condition")
