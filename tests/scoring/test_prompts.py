"""Items become tokens: the prompt, the expected answer, and where it ends."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.errors import BaseModelError, DataError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.models.stop_tokens import stop_tokens
from phi3_lora_qa.scoring.prompts import (
    TokenizedItem,
    answer_limit,
    template_stop_token,
    tokenize_item,
)
from tests.scoring.builders import item as make_item

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_template(tokenizer: Any, template: str | None) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


@pytest.fixture(scope="module")
def chatml(tiny: LoadedBase) -> Any:
    changed = with_template(tiny.tokenizer, CHATML)
    changed.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return changed


def whole_conversation(tokenizer: Any, item: Item) -> list[int]:
    turns = [{"role": turn.role, "content": turn.content} for turn in item.prompt]
    turns.append({"role": "assistant", "content": item.reference})
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("kind", ["phi3", "chatml"])
def test_prompt_and_reference_are_the_conversation_of_the_training(
    kind: str, tiny: LoadedBase, chatml: Any, ragged: tuple[Item, ...]
) -> None:
    tokenizer = chatml if kind == "chatml" else tiny.tokenizer
    stop = template_stop_token(tokenizer)
    for item in ragged:
        tokenized = tokenize_item(tokenizer, stop, item, 500)
        trained = whole_conversation(tokenizer, item)
        scored = [*tokenized.prompt, *tokenized.reference]
        assert trained[: len(scored)] == scored
        # Not scored is only what the template writes after the stop token.
        assert stop not in trained[len(scored) :]


def test_the_stop_token_is_the_templates_own(tiny: LoadedBase, chatml: Any) -> None:
    assert template_stop_token(tiny.tokenizer) == tiny.tokenizer.convert_tokens_to_ids("<|end|>")
    assert template_stop_token(chatml) == chatml.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.download
def test_the_real_chatml_base_ends_its_turns_with_its_eos(smollm2_folder: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    assert template_stop_token(tokenizer) == tokenizer.eos_token_id
    for text in ("Paris.", " Paris", "\n\nParis", "1, 2"):
        item = Item(id="a", prompt=(Message(role="user", content="Where?"),), reference=text)
        tokenized = tokenize_item(tokenizer, tokenizer.eos_token_id, item, 64)
        assert str(tokenizer.decode(list(tokenized.prompt))).endswith("<|im_start|>assistant\n")
        assert tokenizer.decode(list(tokenized.reference)) == f"{text}<|im_end|>"


@pytest.mark.parametrize(
    "text", ["small", "\nsmall", "  small", "small\n", "<|user|> small", "是😀"]
)
def test_the_loss_and_generation_start_from_the_same_tokens(
    text: str, tiny: LoadedBase, chatml: Any
) -> None:
    """White space at the start must not merge with the prompt's last token."""
    for tokenizer in (tiny.tokenizer, chatml):
        stop = template_stop_token(tokenizer)
        question = (Message(role="user", content="How large?"),)
        one, other = (
            tokenize_item(tokenizer, stop, Item(id="i", prompt=question, reference=answer), 64)
            for answer in (text, "large")
        )
        assert one.prompt == other.prompt
        assert one.reference[-1] == stop
        written = tokenizer.decode(list(one.reference[:-1]), skip_special_tokens=False)
        assert str(written).strip() == text.strip()


@pytest.mark.parametrize(
    ("reference", "choices", "fault"),
    [
        ("small<|end|>", (), "the reference contains the stop token '<|end|>', so no model"),
        ("<|end|> small", (), "the reference contains the stop token '<|end|>', so no model"),
        # The base names more stop tokens than its template.
        (
            "very <|endoftext|> small",
            (),
            "the reference contains the stop token '<|endoftext|>', so no model",
        ),
        (
            "small",
            ("small", "large<|end|>"),
            "a choice contains the stop token '<|end|>', so no model",
        ),
    ],
)
def test_text_after_a_stop_token_is_an_error_of_the_item_with_its_line(
    reference: str, choices: tuple[str, ...], fault: str, tiny: LoadedBase
) -> None:
    stop, stops = template_stop_token(tiny.tokenizer), stop_tokens(tiny.model, 0)
    item = make_item(id="a", question="How large?", answer=reference)
    item = replace(item, choices=choices, where="suite.jsonl:3")
    with pytest.raises(DataError, match=re.escape(f"suite.jsonl:3: {fault}")):
        tokenize_item(tiny.tokenizer, stop, item, stops=stops)


def test_tokens_that_end_no_answer_are_allowed_in_a_reference(
    tiny: LoadedBase, chatml: Any
) -> None:
    stops = stop_tokens(tiny.model, 0)
    for text in ("<|user|> small", "</s>small", "< |end| >", "small\n"):
        item = make_item(id="a", question="How large?", answer=text)
        assert tokenize_item(
            tiny.tokenizer, template_stop_token(tiny.tokenizer), item, stops=stops
        ).reference
    # <|end|> does not end a turn in ChatML. If a turn ends with a line break, the base decides.
    item = make_item(id="a", question="How large?", answer="small<|end|>\nand grey")
    assert tokenize_item(chatml, template_stop_token(chatml), item).reference
    item = make_item(id="a", question="How large?", answer="small\nand grey")
    line_break = tiny.tokenizer.get_vocab()["<0x0A>"]
    assert tokenize_item(tiny.tokenizer, line_break, item).reference
    with pytest.raises(DataError, match="contains the stop token"):
        tokenize_item(tiny.tokenizer, line_break, item, stops=frozenset({line_break}))


def test_an_answer_may_have_twice_its_references_tokens_and_eight_more(tiny: LoadedBase) -> None:
    stop = template_stop_token(tiny.tokenizer)
    item = make_item(id="a", question="How large?", answer="small")
    tokenized = tokenize_item(tiny.tokenizer, stop, item, 100)
    assert tokenized.answer_limit == 2 * (len(tokenized.reference) - 1) + 8
    assert tokenize_item(tiny.tokenizer, stop, item, 5).answer_limit == 5


@pytest.mark.parametrize(
    ("reference", "limit"), [(1, 10), (60, 128), (120, 128), (121, 129), (900, 908)]
)
def test_an_answer_may_always_be_as_long_as_its_reference(reference: int, limit: int) -> None:
    assert answer_limit(reference) == limit


def test_the_length_counts_the_longer_of_reference_and_answer() -> None:
    item = TokenizedItem(id="a", prompt=(1, 2), reference=(3, 4, 5), answer_limit=2)
    assert item.length == 5


def test_a_template_that_writes_nothing_after_an_answer_is_refused(tiny: LoadedBase) -> None:
    endless = with_template(tiny.tokenizer, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(BaseModelError, match="no answer could end"):
        template_stop_token(endless)
    with pytest.raises(BaseModelError, match="no chat template"):
        template_stop_token(with_template(tiny.tokenizer, None))


def test_a_template_that_rejects_a_role_is_an_error_of_the_item(tiny: LoadedBase) -> None:
    picky = with_template(
        tiny.tokenizer, "{{ raise_exception('no system turn') if messages[0]['role'] == 'system' }}"
    )
    item = Item(id="a", prompt=(Message(role="system", content="x"),), reference="y")
    with pytest.raises(DataError, match="no system turn"):
        tokenize_item(picky, 1, item, 10)
