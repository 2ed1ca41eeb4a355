"""The generated conversations are deterministic, and contain what a template mentions."""

from phi3_lora_qa.adapter.chat_template.conversation_generation import (
    TemplateInput,
    Vocabulary,
    non_text_inputs,
    ordinary_inputs,
    resized,
    text_variants,
    vocabulary_inputs,
    with_content_parts,
    with_length,
    with_plain_text,
)
from tests.adapter.chat_template.builders import TOKENS, inputs_for, traced
from tests.adapter.chat_templates import MINI_35


def test_the_conversations_are_deterministic() -> None:
    first, second = ([case.key() for case in inputs_for(MINI_35)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 300


def vocabulary_of(template: str) -> Vocabulary:
    vocabulary = Vocabulary()
    vocabulary.add(traced(template).tree)
    return vocabulary


def test_a_vocabulary_contains_what_a_template_mentions() -> None:
    found = vocabulary_of(
        "{{ messages[0].note }}{% if mode == 'x' and 7 %}{{ strftime_now('%Y') }}{% endif %}"
    )
    assert {"x", "%Y"} <= found.words.keys()
    assert 7 in found.numbers
    assert found.free_variables() == ["mode"]
    assert "note" in found.message_keys()
    assert found.uses_clock


def test_values_that_a_template_mentions_are_tried_in_each_position() -> None:
    inputs = list(vocabulary_inputs(vocabulary_of("{% if mode == 'gold' %}x{% endif %}"), TOKENS))
    contents = {message["content"] for case in inputs for message in case.messages}
    assert "gold" in contents
    assert any(message["role"] == "gold" for case in inputs for message in case.messages)
    assert any(case.variables.get("mode") is True for case in inputs)
    assert any("mode" not in case.variables for case in inputs)


def test_ordinary_inputs_have_only_text_and_the_others_do_not() -> None:
    assert not any(case.has_non_text for case in ordinary_inputs(TOKENS))
    assert all(case.has_non_text for case in non_text_inputs(TOKENS))


def test_a_copy_with_changes_leaves_the_original_unchanged() -> None:
    case = next(iter(ordinary_inputs(TOKENS)))
    before = case.key()
    changed = case.with_message(0, content="x").with_variables(mode=1).with_toggled_prompt()
    assert changed.key() != before
    assert case.key() == before


def test_fields_and_variables_may_have_the_names_of_parameters() -> None:
    case = TemplateInput({"messages": [{"role": "user", "content": "x"}]})
    assert case.with_message(0, number=1, self=2).messages[0]["number"] == 1
    assert case.with_variables(self=3).variables["self"] == 3


def test_a_conversation_is_extended_to_the_requested_length() -> None:
    case = next(iter(ordinary_inputs(TOKENS)))
    assert {len(other.messages) for other in with_length(case, 5)} == {5}


def test_parts_become_plain_text_again() -> None:
    case = next(iter(ordinary_inputs(TOKENS)))
    parts = with_content_parts(case)
    assert parts.has_non_text
    assert case.messages in [plain.messages for plain in with_plain_text(parts)]


def test_text_variants_contain_the_word_in_several_places_and_cases() -> None:
    found = list(text_variants("gold", "ab"))
    assert found[:4] == ["gold", "goldab", "abgold", "agoldb"]
    assert {"GOLD", "Gold", "gold ab"} <= set(found)
    assert resized("abc", 7) == "abcabca"
