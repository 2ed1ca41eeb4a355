"""The child's program: jobs in, results out, without importing the package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.bounded_process import folders_of
from phi3_lora_qa.adapter.chat_template import template_rendering_child
from phi3_lora_qa.adapter.chat_template.template_rendering_child import READY, render_all
from phi3_lora_qa.adapter.chat_template.template_sandbox import MAX_CHARACTERS, make_environment
from tests.adapter.chat_template.builders import clock

CONVERSATION = {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False}


def job(*templates: str, pairs: tuple[list[int], ...] = ()) -> dict[str, Any]:
    return {
        "templates": list(templates),
        "special_tokens": {"eos_token": "<end>"},
        "conversations": [CONVERSATION],
        "pairs": list(pairs),
    }


def run_isolated(content: dict[str, Any]) -> Any:
    program = str(Path(template_rendering_child.__file__))
    command = [sys.executable, "-I", "-S", program, *folders_of("jinja2", "markupsafe")]
    data = json.dumps(content).encode()
    output = subprocess.run(command, input=data, capture_output=True, check=True).stdout
    assert output.startswith(READY)
    return json.loads(output[len(READY) :])


def test_results_come_in_the_order_of_templates_and_pairs() -> None:
    found = run_isolated(job("{{ eos_token }}", "{{ 1 / 0 }}", pairs=([0, 0], [0, 1])))
    assert found[0] == {"texts": ["<end>"]}
    assert found[1] == {"error": "ZeroDivisionError in line 1: division by zero"}
    assert found[2]["same_form"]
    assert found[3]["theirs"] is None


def test_all_templates_share_one_limit_on_characters() -> None:
    half = f"{{{{ 'x' * {MAX_CHARACTERS // 2 + 1} }}}}"
    first, second = render_all(job(half, half), make_environment(clock()))
    assert len(first["texts"][0]) == MAX_CHARACTERS // 2 + 1
    assert second == {"error": f"wrote more than {MAX_CHARACTERS} characters"}


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}"])
def test_a_refusal_takes_the_place_of_a_text(template: str) -> None:
    (found,) = render_all(job(template), make_environment(clock()))
    assert found == {"texts": [{"refusal": "no"}]}
