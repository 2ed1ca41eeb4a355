"""Reads from a base's files which special tokens end an answer or begin a turn; loads nothing."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phi3_lora_qa.data.turn_tokens import ROLE_TOKENS, WELL_KNOWN, TurnTokens
from phi3_lora_qa.models.registry import BaseRef, find_folder, find_known
from phi3_lora_qa.reading import read_text

_MOST_BYTES = 64 << 20
_SPECIAL = {*WELL_KNOWN.stops, *WELL_KNOWN.openers} - {"</s>"}
"""Tokens that no answer contains even if the base does not use them; ``</s>`` is HTML, too."""

_ROLE_IN_TEMPLATE = re.compile(r"""['"]<\|['"]""")
"""A template that writes a turn's opening as ``'<|' + role + '|>'``."""


def read_turn_tokens(base: BaseRef) -> TurnTokens | None:
    """Return the tokens of a base's vocabulary that its chat template uses, and its stop tokens.

    Args:
        base: The base; its folder need not be complete.

    Returns:
        The tokens; None if the base has no readable tokenizer on this machine.
    """
    known = find_known(base.id)
    folder = base.folder or (find_folder(known) if known else None)
    if folder is None:
        return None
    settings = _object(folder / "tokenizer_config.json")
    added = _added_tokens(_object(folder / "tokenizer.json"), settings)
    if not added:
        return None
    stops = {
        text
        for file in ("generation_config.json", "config.json")
        for number in _ids(_object(folder / file).get("eos_token_id"))
        if (text := added.get(number))
    }
    template = _text(folder / "chat_template.jinja") or str(settings.get("chat_template") or "")
    end = settings.get("eos_token")
    end = end.get("content") if isinstance(end, Mapping) else end
    by_role = ROLE_TOKENS if _ROLE_IN_TEMPLATE.search(template) else ()
    used = {text for text in added.values() if text in template or text in by_role}
    used |= set(added.values()).intersection(_SPECIAL)
    stops |= {text for text in added.values() if text == end}
    stops |= used.intersection(WELL_KNOWN.stops)
    return TurnTokens(stops=tuple(sorted(stops)), openers=tuple(sorted(used - stops)))


def _added_tokens(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[int, str]:
    """Return the added tokens by id, which a tokenizer finds anywhere in a text."""
    entries = tokenizer.get("added_tokens")
    if isinstance(entries, list):
        pairs = [(e.get("id"), e.get("content")) for e in entries if isinstance(e, Mapping)]
    else:
        decoder = settings.get("added_tokens_decoder")
        pairs = [
            (int(number), entry.get("content"))
            for number, entry in (decoder.items() if isinstance(decoder, Mapping) else ())
            if str(number).isdecimal() and isinstance(entry, Mapping)
        ]
    return {n: text for n, text in pairs if type(n) is int and isinstance(text, str) and text}


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [number for number in values if type(number) is int]


def _object(path: Path) -> Mapping[str, Any]:
    """Return a JSON object; empty if the file is missing or damaged, which loading reports."""
    try:
        found = json.loads(_text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return read_text(path, _MOST_BYTES)
    except (OSError, ValueError):
        return ""
