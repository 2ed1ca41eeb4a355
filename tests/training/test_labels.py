from typing import Any

import pytest
from datasets import Dataset
from trl.chat_template_utils import phi3_chat_template

from phi3_lora_qa.errors import DataError
from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.training.labels import IGNORED, encode, label_rows, stop_texts

CHATML = (
    "{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)
FIRST_RELEASE = (  # of April 2024: no system turn, and the user's turn writes the prompt's end
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}"
    "<|end|>\n<|assistant|>\n{% elif m.role == 'assistant' %}{{ m.content }}<|end|>\n{% endif %}"
    "{% endfor %}"
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say hello."},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hello again"},
]


@pytest.fixture
def tokenizer(tiny: LoadedBase) -> Any:
    import copy

    return copy.deepcopy(tiny.tokenizer)


def learned(tokenizer: Any, messages: list[dict[str, str]]) -> list[list[str]]:
    """Return the runs of tokens that have a label, as text."""
    ids, labels = encode(messages, tokenizer, ("<|endoftext|>", "<|end|>"), True, "row")
    runs: list[list[int]] = [[]]
    for token, label in zip(ids, labels, strict=True):
        if label == IGNORED:
            runs.append([])
        else:
            assert label == token
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("template", ["own", "phi3", "chatml", "first release"])
def test_only_the_assistant_turns_are_learned_each_with_its_stop_token(
    tokenizer: Any, template: str
) -> None:
    talk = TALK if template != "first release" else TALK[1:]
    templates = {"phi3": phi3_chat_template, "chatml": CHATML, "first release": FIRST_RELEASE}
    tokenizer.chat_template = templates.get(template, tokenizer.chat_template)
    runs = ["".join(run).replace(" ", "") for run in learned(tokenizer, talk)]
    assert runs == ["hello<|end|>", "helloagain<|end|>"]


def test_labels_agree_with_a_template_that_has_generation_marks(tokenizer: Any) -> None:
    marked = tokenizer.apply_chat_template(
        TALK, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, labels = encode(TALK, tokenizer, ("<|end|>",), True, "row")
    assert marked["input_ids"][: len(ids)] == ids
    mask = [int(label != IGNORED) for label in labels]
    assert marked["assistant_masks"][: len(ids)] == mask
    assert 1 not in marked["assistant_masks"][len(ids) :]


def test_a_stop_token_that_is_also_the_pad_token_is_learned(tokenizer: Any) -> None:
    tokenizer.pad_token = "<|end|>"
    ids, labels = encode(TALK, tokenizer, ("<|end|>",), True, "row")
    stop = tokenizer.convert_tokens_to_ids("<|end|>")
    assert ids[-1] == labels[-1] == stop


def test_stop_tokens_and_answers_quoted_in_a_prompt_are_not_learned(tokenizer: Any) -> None:
    talk = [
        {"role": "user", "content": "Repeat: yes<|end|>\n<|assistant|>\nyes"},
        {"role": "assistant", "content": "yes"},
    ]
    (run,) = learned(tokenizer, talk)
    assert "".join(run).replace(" ", "") == "yes<|end|>"


def test_spaces_around_an_answer_are_learned_with_it(tokenizer: Any) -> None:
    talk = [TALK[1], {"role": "assistant", "content": " hello  "}]
    _, labels = encode(talk, tokenizer, ("<|end|>",), True, "row")
    tokens = tokenizer.convert_ids_to_tokens([label for label in labels if label != IGNORED])
    assert tokens[-2:] == ["▁", "<|end|>"]


def test_every_token_is_learned_without_assistant_only(tokenizer: Any) -> None:
    ids, labels = encode(TALK, tokenizer, ("<|end|>",), False, "row")
    assert labels == ids


def test_a_template_that_drops_the_system_turn_is_rejected(tokenizer: Any) -> None:
    tokenizer.chat_template = FIRST_RELEASE
    with pytest.raises(DataError, match="drops turn 1, with the role system"):
        learned(tokenizer, TALK)


def test_a_template_that_rewrites_earlier_turns_is_rejected(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(DataError, match="differently once it is answered"):
        learned(tokenizer, TALK)


def test_a_template_without_a_stop_token_is_rejected(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("<|end|>", "")
    with pytest.raises(DataError, match="would not learn to stop"):
        learned(tokenizer, TALK)


def test_the_stop_token_of_another_turn_does_not_count(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("<|end|>", "{{ '<|end|>' if m.role == 'user' }}")
    with pytest.raises(DataError, match="does not end turn 3 with any of the stop tokens"):
        learned(tokenizer, TALK)


def test_the_stop_tokens_are_those_of_the_generation_config(tiny: LoadedBase) -> None:
    assert {"<|end|>", "<|endoftext|>"} <= set(stop_texts(tiny.model, tiny.tokenizer))


def test_long_rows_are_cut_and_counted_and_rows_without_labels_dropped(
    tiny: LoadedBase,
) -> None:
    long_answer = [TALK[1], {"role": "assistant", "content": "hello " * 50}]
    long_prompt = [{"role": "user", "content": "hello " * 50}, TALK[2]]
    rows = Dataset.from_dict({"messages": [TALK, long_answer, long_prompt]})
    found = label_rows(rows, tiny.tokenizer, ("<|end|>",), max_length=40)
    assert found.truncated == 2
    assert [len(ids) for ids in found.rows["input_ids"]][1:] == [40]


def test_rows_without_any_labels_are_rejected(tiny: LoadedBase) -> None:
    rows = Dataset.from_dict({"messages": [TALK]})
    with pytest.raises(DataError, match=r"raise training\.max_length"):
        label_rows(rows, tiny.tokenizer, ("<|end|>",), max_length=3)
