"""Tests of the rules on the base's chat template and its stop tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse
from phi3_lora_qa.adapter.finding import Finding, Severity
from tests.adapter.base_variants import (
    CONFIG,
    GENERATION,
    OWN_TEMPLATE,
    TEMPLATE,
    TINY,
    WITHOUT_SYSTEM,
    copy_base,
    edit_json,
    findings_on,
    write_template,
)
from tests.adapter.chat_templates import BRACKETS

END, EOS = 748, 741
SUITE = (("system", "user"),) * 3 + (("user",),) * 7


def with_template(folder: Path, text: str) -> Path:
    return write_template(copy_base(folder), text)


def of_rule(rule: str, base: Path, *uses: BaseUse, **keywords: Any) -> list[Finding]:
    return [found for found in findings_on(base, *uses, **keywords) if found.rule == rule]


def test_a_base_without_a_template_can_be_linted_and_not_scored(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "base")
    (base / TEMPLATE).unlink()
    assert [f.severity for f in findings_on(base)] == [Severity.WARNING]
    (found,) = findings_on(base, BaseUse.ANSWERS)
    assert (found.rule, found.severity) == ("basemodel-template", Severity.ERROR)


def test_a_template_that_cannot_be_rendered_is_named_with_the_reason(tmp_path: Path) -> None:
    base = with_template(tmp_path / "base", "{% for m in messages %}{{ m.role }}")
    (found,) = findings_on(base, BaseUse.ANSWERS)
    assert found.rule == "basemodel-template"
    assert "cannot be rendered: syntax error in line 1" in found.message


def test_dropped_system_turns_are_a_warning_with_the_number_of_items(tmp_path: Path) -> None:
    base = with_template(tmp_path / "base", WITHOUT_SYSTEM)
    (found,) = findings_on(base, *BaseUse)
    assert (found.rule, found.severity) == ("basemodel-template-drops-turns", Severity.WARNING)
    assert (found.where, found.message) == (TEMPLATE, "the chat template leaves out system turns")
    (counted,) = findings_on(base, *BaseUse, prompts=SUITE)
    assert counted.message.endswith(
        "; 3 of 10 items of the suite have a turn that the model never sees"
    )


def test_another_turn_that_is_dropped_is_named(tmp_path: Path) -> None:
    text = OWN_TEMPLATE.replace("in messages %}", "in messages[-1:] %}")
    (found,) = of_rule("basemodel-template-drops-turns", with_template(tmp_path / "base", text))
    assert (
        "leaves out turn 1 (user) and turn 2 (assistant) of a conversation of user, assistant, user"
        in found.message
    )


def test_a_template_that_writes_all_turns_has_no_finding() -> None:
    assert not findings_on(TINY, *BaseUse, prompts=(*SUITE, ("user", "user"), ("system",) * 3))


def test_a_refusal_of_system_turns_is_a_note(tmp_path: Path) -> None:
    base = with_template(tmp_path / "base", BRACKETS.replace("eos_token", "'<|end|>'"))
    (found,) = findings_on(base, *BaseUse, prompts=SUITE)
    assert (found.rule, found.severity) == ("basemodel-template-refuses-turns", Severity.INFO)
    assert "'no system message, please'; 3 of 10 items" in found.message


@pytest.mark.parametrize("stops", [EOS, [EOS], [EOS, 742]])
@pytest.mark.parametrize("file", [GENERATION, CONFIG])
def test_a_template_that_ends_answers_with_another_token_is_found(
    file: str, stops: Any, tmp_path: Path
) -> None:
    base = copy_base(tmp_path / "base")
    if file == CONFIG:
        (base / GENERATION).unlink()
    edit_json(base, file, eos_token_id=stops)
    (found,) = findings_on(base, BaseUse.ANSWERS)
    assert (found.rule, found.severity) == ("basemodel-stop-tokens", Severity.ERROR)
    assert found.where == f"{file}: eos_token_id"
    assert f"'<|end|>' (id {END}), which is not a stop token: they are {EOS} (<|endoftext|>)" in (
        found.message
    )
    assert [f.severity for f in findings_on(base, BaseUse.LOADING)] == [Severity.WARNING]
    assert [f.severity for f in findings_on(base)] == [Severity.WARNING]


def test_the_fix_for_stop_tokens_works_when_it_is_followed(tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=EOS)
    (found,) = findings_on(base, BaseUse.ANSWERS)
    assert found.fix.startswith('write "eos_token_id": [741, 748] into')
    fields = json.loads(f"{{{found.fix.removeprefix('write ').partition(' into')[0]}}}")
    assert not findings_on(edit_json(base, GENERATION, **fields), BaseUse.ANSWERS)


@pytest.mark.parametrize("stops", [END, [END], [EOS, 742, END]])
def test_stop_tokens_with_the_templates_own_are_healthy(stops: Any, tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=stops)
    assert not findings_on(base, *BaseUse)


@pytest.mark.parametrize("stops", [None, []])
def test_a_base_that_names_no_stop_token_is_found(stops: Any, tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=stops)
    (found,) = findings_on(base, BaseUse.ANSWERS)
    assert (found.rule, found.severity) == ("basemodel-stop-tokens", Severity.ERROR)
    assert found.message.endswith("(id 748), which is not a stop token: none is named")
    assert found.fix.startswith('write "eos_token_id": [748] into')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the prompt that the chat template renders lacks the question"),
        ("Entry not found", "the prompt that the chat template renders lacks the question"),
        ("{{ raise_exception('no') }}", "the chat template refuses a question: 'no'"),
    ],
)
def test_a_template_that_does_not_show_a_question_is_no_template(
    text: str, message: str, tmp_path: Path
) -> None:
    base = with_template(tmp_path / "base", text)
    (found,) = findings_on(base)
    assert (found.rule, found.severity, found.message) == (
        "basemodel-template",
        Severity.WARNING,
        message,
    )
    for use in (BaseUse.ANSWERS, BaseUse.TEMPLATE):
        assert [found.severity for found in findings_on(base, use)] == [Severity.ERROR]


def test_the_first_special_token_after_an_answer_counts(tmp_path: Path) -> None:
    """As Llama 2's, which writes a space and then the end of the text."""
    base = with_template(
        tmp_path / "base", OWN_TEMPLATE.replace("+ '<|end|>' }}", "+ ' ' + eos_token }}")
    )
    assert not of_rule("basemodel-stop-tokens", base, *BaseUse)
    edit_json(base, GENERATION, eos_token_id=END)
    assert of_rule("basemodel-stop-tokens", base, *BaseUse)


def test_an_answer_that_ends_with_ordinary_text_cannot_end(tmp_path: Path) -> None:
    text = "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    base = with_template(tmp_path / "base", text)
    (found,) = of_rule("basemodel-stop-tokens", base)
    assert r"ends an answer with the text '\n\n', which contains no stop token" in found.message
    number = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]["<0x0A>"]
    assert not of_rule("basemodel-stop-tokens", edit_json(base, GENERATION, eos_token_id=number))


def test_a_template_that_writes_nothing_after_an_answer_is_found(tmp_path: Path) -> None:
    text = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    (found,) = of_rule("basemodel-stop-tokens", with_template(tmp_path / "base", text))
    assert "writes nothing after an answer" in found.message


@pytest.mark.parametrize("value", ["748", 748.0, True, [-1], {"id": 748}])
def test_a_value_that_is_no_token_id_is_found(value: Any, tmp_path: Path) -> None:
    base = edit_json(copy_base(tmp_path / "base"), GENERATION, eos_token_id=value)
    (found,) = findings_on(base, BaseUse.ANSWERS)
    assert "must be a token id or a list of token ids" in found.message
