"""Stop tokens are those that the base names, and are the same for scoring, serving and training."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from phi3_lora_qa.errors import BaseModelError, DataError
from phi3_lora_qa.models.loading import LoadedBase, load_tokenizer
from phi3_lora_qa.models.registry import bundled, resolve_base
from phi3_lora_qa.models.stop_tokens import stop_tokens, stop_tokens_from_files
from phi3_lora_qa.training.labels import encode, stop_texts

CONVERSATION = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}]


def with_stops(base: LoadedBase, named: int | list[int] | None) -> Any:
    """Return the base's model, with other stop tokens in its generation config."""
    model: Any = copy.copy(base.model)
    model.generation_config = copy.deepcopy(base.model.generation_config)
    model.generation_config.eos_token_id = named
    return model


@pytest.mark.parametrize(
    ("named", "expected"), [(5, {5}), ([5, 6], {5, 6}), ([0], {0}), (None, {9})]
)
def test_the_templates_stop_token_is_used_only_if_the_base_names_none(
    named: int | list[int] | None, expected: set[int], tiny: LoadedBase
) -> None:
    assert stop_tokens(with_stops(tiny, named), 9) == expected


def test_a_model_without_a_generation_config_stops_at_the_templates(tiny: LoadedBase) -> None:
    model = with_stops(tiny, None)
    model.generation_config = None
    assert stop_tokens(model, 9) == {9}


def test_a_base_that_is_not_loaded_has_the_same_stop_tokens_and_tokenizer(
    tiny: LoadedBase, tmp_path: Path
) -> None:
    ref = resolve_base("tiny")
    assert load_tokenizer(ref).get_vocab() == tiny.tokenizer.get_vocab()
    assert load_tokenizer(ref).chat_template == tiny.tokenizer.chat_template
    assert stop_tokens_from_files(ref, 0) == stop_tokens(tiny.model, 0)
    bare = tmp_path / "bare"  # no weights, and the stop tokens only in config.json
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (bare / name).write_bytes((bundled("tiny/base") / name).read_bytes())
    ref = resolve_base(str(bare))
    assert load_tokenizer(ref).chat_template == tiny.tokenizer.chat_template
    assert stop_tokens_from_files(ref, 0) == {tiny.model.config.eos_token_id}
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    assert stop_tokens_from_files(ref, 9) == {9}
    (bare / "tokenizer.json").unlink()
    with pytest.raises(BaseModelError, match="no tokenizer"):
        load_tokenizer(ref)


def test_training_and_scoring_have_the_same_stop_tokens(tiny: LoadedBase) -> None:
    end: Any = tiny.tokenizer.convert_tokens_to_ids("<|end|>")
    for stops in ([7, end], 7, None):
        model = with_stops(tiny, stops)
        texts = stop_texts(model, tiny.tokenizer)
        ids: Any = tiny.tokenizer.convert_tokens_to_ids(list(texts))
        assert set(ids) == stop_tokens(model, end)


def test_training_refuses_a_turn_that_ends_with_the_tokenizers_token_only(
    tiny: LoadedBase,
) -> None:
    """Training used to add the tokenizer's end token, at which no server would have stopped."""
    end: Any = tiny.tokenizer.convert_tokens_to_ids("<|end|>")
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.eos_token = "<|end|>"
    other: Any = tiny.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    model = with_stops(tiny, [other])
    assert stop_tokens(model, end) == {other}
    assert stop_texts(model, tokenizer) == ("<|endoftext|>",)
    template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    tokenizer.chat_template = template
    with pytest.raises(
        DataError, match=r"does not end turn 2 with any of the stop tokens <\|endoftext\|>,"
    ):
        encode(CONVERSATION, tokenizer, stop_texts(model, tokenizer), True, "conversation 1")
    ids, labels = encode(CONVERSATION, tokenizer, ("<|end|>",), True, "conversation 1")
    assert (ids[-1], labels[-1]) == (end, end)
