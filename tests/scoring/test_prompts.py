"""Items as tokens: what is asked, what is expected, where the answer ends."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest

from phi3_lora_qa.data.chat_items import Item, Message
from phi3_lora_qa.errors import BaseModelError, DataError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring.decoding import stop_tokens
from phi3_lora_qa.scoring.prompts import TokenizedItem, answer_limit, tokenize_item, stop_token

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
def test_prompt_and_reference_are_the_conversation_that_training_shows(
    kind: str, tiny: LoadedBase, chatml: Any, ragged: tuple[Item, ...]
) -> None:
    tokenizer = chatml if kind == "chatml" else tiny.tokenizer
    stop = stop_token(tokenizer)
    for item in ragged:
        prompted = tokenize_item(tokenizer, stop, item, 500)
        trained = whole_conversation(tokenizer, item)
        scored = [*prompted.prompt, *prompted.reference]
        assert trained[: len(scored)] == scored
        # What is not scored is what the template writes behind the stop token.
        assert stop not in trained[len(scored) :]


def test_the_stop_token_is_the_templates_own(tiny: LoadedBase, chatml: Any) -> None:
    assert stop_token(tiny.tokenizer) == tiny.tokenizer.convert_tokens_to_ids("<|end|>")
    assert stop_token(chatml) == chatml.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.download
def test_the_real_chatml_base_ends_its_turns_with_its_eos(smollm2_folder: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    assert stop_token(tokenizer) == tokenizer.eos_token_id
    for text in ("Paris.", " Paris", "\n\nParis", "1, 2"):
        item = Item(id="a", prompt=(Message(role="user", content="Where?"),), reference=text)
        prompted = tokenize_item(tokenizer, tokenizer.eos_token_id, item, 64)
        assert str(tokenizer.decode(list(prompted.prompt))).endswith("<|im_start|>assistant\n")
        assert tokenizer.decode(list(prompted.reference)) == f"{text}<|im_end|>"


@pytest.mark.parametrize(
    "text", ["small", "\nsmall", "  small", "small\n", "<|user|> small", "是😀"]
)
def test_the_loss_starts_from_the_tokens_that_generation_starts_from(
    text: str, tiny: LoadedBase, chatml: Any
) -> None:
    """White space at the start may merge with the prompt's last token: it must not."""
    for tokenizer in (tiny.tokenizer, chatml):
        stop = stop_token(tokenizer)
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
    ("reference", "choices", "held"),
    [
        ("small<|end|>", (), "the reference holds '<|end|>', at which"),
        ("<|end|> small", (), "the reference holds '<|end|>', at which"),
        # The base names further tokens than its template's.
        ("very <|endoftext|> small", (), "the reference holds '<|endoftext|>', at which"),
        ("small", ("small", "large<|end|>"), "a choice holds '<|end|>', at which"),
    ],
)
def test_what_goes_on_behind_its_end_is_an_error_of_the_item_with_its_line(
    reference: str, choices: tuple[str, ...], held: str, tiny: LoadedBase, make_item: Any
) -> None:
    stop, ends = stop_token(tiny.tokenizer), stop_tokens(tiny.model, 0)
    item = make_item(id="a", question="How large?", answer=reference)
    item = replace(item, choices=choices, where="suite.jsonl:3")
    with pytest.raises(DataError, match=re.escape(f"suite.jsonl:3: {held}")):
        tokenize_item(tiny.tokenizer, stop, item, ends=ends)


def test_tokens_that_end_no_answer_may_stand_in_a_reference(
    tiny: LoadedBase, chatml: Any, make_item: Any
) -> None:
    ends = stop_tokens(tiny.model, 0)
    for text in ("<|user|> small", "</s>small", "< |end| >", "small\n"):
        item = make_item(id="a", question="How large?", answer=text)
        assert tokenize_item(tiny.tokenizer, stop_token(tiny.tokenizer), item, ends=ends).reference
    # <|end|> is no end in ChatML; and where a turn ends with a line break, the base decides.
    item = make_item(id="a", question="How large?", answer="small<|end|>\nand grey")
    assert tokenize_item(chatml, stop_token(chatml), item).reference
    item = make_item(id="a", question="How large?", answer="small\nand grey")
    line_break = tiny.tokenizer.get_vocab()["<0x0A>"]
    assert tokenize_item(tiny.tokenizer, line_break, item).reference
    with pytest.raises(DataError, match="at which an answer ends"):
        tokenize_item(tiny.tokenizer, line_break, item, ends=frozenset({line_break}))


def test_an_answer_may_be_twice_its_reference_and_eight_tokens_more(
    tiny: LoadedBase, make_item: Any
) -> None:
    stop = stop_token(tiny.tokenizer)
    item = make_item(id="a", question="How large?", answer="small")
    prompted = tokenize_item(tiny.tokenizer, stop, item, 100)
    assert prompted.answer_limit == 2 * (len(prompted.reference) - 1) + 8
    assert tokenize_item(tiny.tokenizer, stop, item, 5).answer_limit == 5


@pytest.mark.parametrize(
    ("reference", "limit"), [(1, 10), (60, 128), (120, 128), (121, 129), (900, 908)]
)
def test_an_answer_may_always_be_as_long_as_its_reference(reference: int, limit: int) -> None:
    assert answer_limit(reference) == limit


def test_the_length_counts_the_longer_of_reference_and_answer() -> None:
    item = TokenizedItem(id="a", prompt=(1, 2), reference=(3, 4, 5), answer_limit=2)
    assert item.length == 5


def test_a_template_without_an_end_of_the_turn_is_refused(tiny: LoadedBase) -> None:
    endless = with_template(tiny.tokenizer, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(BaseModelError, match="no answer could end"):
        stop_token(endless)
    with pytest.raises(BaseModelError, match="no chat template"):
        stop_token(with_template(tiny.tokenizer, None))


def test_a_template_that_refuses_a_role_is_an_error_of_the_item(tiny: LoadedBase) -> None:
    picky = with_template(
        tiny.tokenizer, "{{ raise_exception('no system turn') if messages[0]['role'] == 'system' }}"
    )
    item = Item(id="a", prompt=(Message(role="system", content="x"),), reference="y")
    with pytest.raises(DataError, match="no system turn"):
        tokenize_item(picky, 1, item, 10)
