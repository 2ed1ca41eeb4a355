"""Reads the added tokens of a base without parsing its vocabulary, which takes half a second."""

import json
import re
from typing import Any

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import (
    NAMES,
    SETTINGS,
    SPECIAL_MAP,
    read_object,
    special_token,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_json import MAX_VOCABULARY_BYTES, VOCABULARY

_LIST = re.compile(rb'"added_tokens"\s*:\s*(?=\[)')
_MOST_BYTES = 4 << 20


def quick_added_tokens(base: BaseFiles) -> dict[str, int] | None:
    """Return the ids of the tokens that are split off before a text is tokenized, by their text.

    Args:
        base: The base.

    Returns:
        The tokens of tokenizer.json and of added_tokens_decoder; None if they do not include each
        special token, so that the whole tokenizer must be read.

    Raises:
        AdapterError: tokenizer_config.json is not a strict JSON object.
        BaseModelError: A file cannot be read.
    """
    data = base.read_bytes(VOCABULARY, MAX_VOCABULARY_BYTES) or b""
    found = _LIST.search(data)
    if found is None:
        return None
    text = data[found.end() : found.end() + _MOST_BYTES].decode("utf-8", "replace")
    try:
        entries = json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None
    tokens: dict[str, int] = {}
    settings = read_object(base, SETTINGS)
    decoder = settings.get("added_tokens_decoder") or {}
    listed = decoder.items() if isinstance(decoder, dict) else ()
    others = [{"id": int(n), **entry} for n, entry in listed if n.isdecimal() and _is_object(entry)]
    for entry in [*filter(_is_object, entries), *others]:
        if isinstance(entry.get("content"), str) and type(entry.get("id")) is int:
            tokens[entry["content"]] = entry["id"]
    older = {} if "added_tokens_decoder" in settings else read_object(base, SPECIAL_MAP)
    special = [special_token({**settings, **older}, name) for name in NAMES]
    return tokens if all(token is None or token in tokens for token in special) else None


def _is_object(entry: Any) -> bool:
    return isinstance(entry, dict)
