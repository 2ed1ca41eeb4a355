"""An answer ends with its first stop token, and its text has no special tokens."""

from typing import Any

import pytest

from phi3_lora_qa.models.loading import LoadedBase
from phi3_lora_qa.scoring.decoding import decode_answer, truncate_at_stop


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((), ()),
        ((1, 2, 3), (1, 2, 3)),
        ((1, 7, 3, 8), (1, 7)),
        ((8,), (8,)),
        ((1, 8, 8, 8), (1, 8)),
    ],
)
def test_an_answer_is_cut_after_its_first_stop_token(
    answer: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert truncate_at_stop(answer, frozenset({7, 8})) == expected


def test_the_text_has_no_special_tokens_and_keeps_its_spaces(tiny: LoadedBase) -> None:
    text = "small , and grey ."
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    end: Any = tiny.tokenizer.convert_tokens_to_ids("<|end|>")
    assert decode_answer(tiny.tokenizer, [*ids, end]) == text
