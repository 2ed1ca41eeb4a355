"""Builders of traced templates and of inputs for them."""

from collections.abc import Iterator
from datetime import datetime

from phi3_lora_qa.adapter.chat_template.branch_tracing import TracedTemplate
from phi3_lora_qa.adapter.chat_template.conversation_generation import (
    TemplateInput,
    Vocabulary,
    non_text_inputs,
    ordinary_inputs,
    small_changes,
    vocabulary_inputs,
)
from phi3_lora_qa.adapter.chat_template.template_sandbox import Clock

TOKENS = {"bos_token": "<s>", "eos_token": "<|endoftext|>"}


def clock() -> Clock:
    return Clock(datetime(2026, 11, 30, 12, 0, 0))


def traced(template: str) -> TracedTemplate:
    return TracedTemplate(template, clock())


def inputs_for(*templates: str) -> Iterator[TemplateInput]:
    vocabulary = Vocabulary()
    for template in templates:
        vocabulary.add(traced(template).tree)
    yield from (
        *ordinary_inputs(TOKENS),
        *non_text_inputs(TOKENS),
        *vocabulary_inputs(vocabulary, TOKENS),
    )
    yield from small_changes(next(iter(ordinary_inputs(TOKENS))), vocabulary)
