"""Tests of trying a chat template on made-up conversations."""

import pytest

from phi3_lora_qa.adapter.base_checks.unseen_turns import USUAL, try_template, words_of
from phi3_lora_qa.adapter.chat_template.template_rendering import Conversation, render
from phi3_lora_qa.adapter.chat_template.template_results import KNOWN_GOOD
from phi3_lora_qa.adapter.manifest import template_hash
from tests.adapter.base_variants import OWN_TEMPLATE, WITHOUT_SYSTEM
from tests.adapter.chat_templates import BRACKETS, GOOD, MEDIUM, MINI, MINI_35

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("text", [OWN_TEMPLATE, GOOD, MINI, MINI_35])
def test_a_template_that_writes_every_turn_drops_none(text: str) -> None:
    trial = try_template(text, {}, TOKENS)
    assert (trial.unseen, trial.refusals, trial.error) == ({}, {}, "")
    assert (trial.end or "").startswith("<|end|>\n")


@pytest.mark.parametrize("text", [OWN_TEMPLATE, MINI, MINI_35])
def test_what_is_taken_for_granted_of_known_templates_is_so(text: str) -> None:
    assert template_hash(text) in KNOWN_GOOD
    conversations = [Conversation(messages=tuple((r, f"word{n}") for n, r in enumerate(roles)))
                     for roles in (*USUAL, ("user", "assistant"))]  # fmt: skip
    for roles, prompt in zip(USUAL, render((text,), conversations, TOKENS)[0].texts, strict=False):
        assert all(f"word{number}<|end|>\n" in str(prompt) for number in range(len(roles)))


@pytest.mark.parametrize("text", [WITHOUT_SYSTEM, MEDIUM])
def test_a_system_turn_that_is_left_out_is_found(text: str) -> None:
    trial = try_template(text, {}, TOKENS)
    assert trial.unseen == {
        ("system", "user"): (0,),
        ("system", "user", "assistant", "user"): (0,),
    }


def test_a_template_that_writes_only_the_last_turn_loses_all_others() -> None:
    unseen = try_template(GOOD.replace("in messages", "in messages[-1:]"), {}, TOKENS).unseen
    assert unseen is not None
    assert unseen["user", "assistant", "user"] == (0, 1)
    assert ("user",) not in unseen


def test_answers_that_are_left_out_are_found() -> None:
    text = GOOD.replace("in messages %}", "in messages if m.role != 'assistant' %}")
    trial = try_template(text, {}, TOKENS)
    assert trial.unseen is not None
    assert trial.unseen["user", "assistant", "user"] == (1,)
    assert trial.end is None


@pytest.mark.parametrize("length", [12, 200, 2048])
def test_a_long_turn_that_is_cut_is_not_seen_as_a_whole(length: int) -> None:
    cut = GOOD.replace("{{ m.content }}", f"{{{{ m.content[:{length}] }}}}")
    assert try_template(cut, {}, TOKENS).unseen


def test_changed_case_and_spaces_are_no_loss() -> None:
    changed = GOOD.replace("{{ m.content }}", "{{ m.content.strip() | upper }}")
    assert try_template(changed, {}, TOKENS).unseen == {}


def test_a_refusal_is_not_a_loss() -> None:
    trial = try_template(BRACKETS, {}, TOKENS)
    assert trial.unseen == {}
    assert trial.refusals is not None
    assert trial.refusals["system", "user"] == "no system message, please"
    assert trial.end == "</s>"


def test_shapes_of_the_suite_are_tried_too() -> None:
    late = ("user", "system")
    shown = "{% if loop.first or m.role != 'system' %}{{ m.content }}{% endif %}"
    text = GOOD.replace("{{ m.content }}", shown)
    assert try_template(text, {}, TOKENS).unseen == {}
    assert try_template(text, {late: 3}, TOKENS).unseen == {late: (1,)}


def test_a_template_with_an_error_is_said_to_have_one() -> None:
    assert "syntax error" in try_template("{% for %}", {}, TOKENS).error


def test_the_words_of_a_turn_are_part_of_no_other() -> None:
    words = [word for turn in range(70) for word in words_of(turn)]
    assert not any(a in b for a in words for b in words if a is not b)
