"""Finds tokens that no prompt contains, and that may therefore be matched differently.

Phi-3's vocabulary has spare tokens such as <|placeholder6|>. A tool that uses one for padding saves
it with the flags of a new token: it is then matched differently in a text that has this literal,
and in no other text.
"""

import re

from phi3_lora_qa.adapter.tokenizer.tokenizer_files import Tokenizer

_SPARE = re.compile(
    r"<\|?(placeholder|reserved|unused|dummy|extra_id|pad|padding|vision_pad|finetune_right_pad_id"
    r"|pad_token|dummy_[0-9]+|reserved_special_token)[_ ]?[0-9]*\|?>",
    re.IGNORECASE,
)


def unused_tokens(ours: Tokenizer | None, theirs: Tokenizer | None) -> dict[str, tuple[bool, ...]]:
    """Return the spare tokens that two tokenizers match differently, with the flags of ours.

    A token that has another use than padding in either tokenizer is not among them.

    Args:
        ours: The folder's tokenizer, or None: then there are none.
        theirs: The base's tokenizer, or None.
    """
    if ours is None or theirs is None:
        return {}
    used = {
        token for one in (ours, theirs) for name, token in one.special.items()
        if name != "pad_token"
    }  # fmt: skip
    return {
        token: entry.flags
        for token, entry in ours.added.items()
        if _SPARE.fullmatch(token)
        and token not in used
        and token in theirs.added
        and theirs.added[token].token_id == entry.token_id
        and theirs.added[token].flags != entry.flags
    }
