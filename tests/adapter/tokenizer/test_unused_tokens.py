from dataclasses import replace

import pytest

from phi3_lora_qa.adapter.tokenizer.tokenizer_files import Tokenizer
from phi3_lora_qa.adapter.tokenizer.tokenizer_json import AddedToken
from phi3_lora_qa.adapter.tokenizer.unused_tokens import unused_tokens

OURS, THEIRS = (False, False, False, False), (False, False, True, False)


def tokenizer(token: str, flags: tuple[bool, bool, bool, bool], **special: str) -> Tokenizer:
    return Tokenizer(
        file=None, pieces=(), tokens={token: 3}, extra=(), declared_ids=(),
        added={token: AddedToken(token_id=3, flags=flags, special=True)}, special=dict(special),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("token", "is_spare"),
    [
        ("<|placeholder6|>", True),
        ("<|reserved_special_token_12|>", True),
        ("<pad>", True),
        ("<|end|>", False),
        ("<|user|>", False),
        ("<|endoftext|>", False),
        ("placeholder6", False),
    ],
)
def test_only_spare_tokens_may_have_other_flags(token: str, is_spare: bool) -> None:
    found = unused_tokens(tokenizer(token, OURS, pad_token=token), tokenizer(token, THEIRS))
    assert found == ({token: OURS} if is_spare else {})


def test_a_spare_token_with_a_use_or_without_a_difference_is_not_among_them() -> None:
    ours, theirs = tokenizer("<pad>", OURS), tokenizer("<pad>", THEIRS)
    assert unused_tokens(ours, theirs)
    assert not unused_tokens(tokenizer("<pad>", OURS, eos_token="<pad>"), theirs)
    assert not unused_tokens(ours, tokenizer("<pad>", THEIRS, bos_token="<pad>"))
    assert not unused_tokens(ours, ours)
    moved = {"<pad>": AddedToken(token_id=4, flags=THEIRS, special=True)}
    assert not unused_tokens(ours, replace(theirs, added=moved))
    assert not unused_tokens(None, theirs)
