"""A key taken out of words that come from elsewhere, however it is written there."""

import base64
import html
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote_plus

MARK = "…"
_SHORTEST = 8
"""So many letters of the key in a row are a piece of it; fewer are in too many words."""
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")


def cleaned(text: str, key: str) -> str:
    """Return a text without the key, and without longer pieces of it; clean first, then cut.

    The key is found as it is, as URLs, JSON and HTML write it, and in base64 and hexadecimal.
    """
    if not key:
        return text
    plain = html.unescape(unquote_plus(_ESCAPED.sub(_character, text)))
    if plain != text and _without(plain, key) != plain:
        text = plain  # it was escaped in a way of its own: what is shown is then the plain text
    return _without(text, key)


def cleaned_bytes(data: bytes, key: str) -> bytes:
    """Take the whole key out of a reply of any size, so that no cut goes through the middle."""
    for form in _forms(key) if key else ():
        data = data.replace(form.encode("ascii"), MARK.encode())
    return data


def _forms(key: str) -> Iterator[str]:
    """The key as others write it, the longest forms first."""
    forms = {
        key,
        quote(key, safe=""),
        quote_plus(key),
        quote(key),
        html.escape(key),
        *_encoded(key),
    }
    yield from sorted(filter(None, forms), key=len, reverse=True)


def _encoded(key: str) -> Iterator[str]:
    raw = key.encode("ascii")
    yield from (raw.hex(), raw.hex().upper())
    for before in range(3):  # in base64 it looks otherwise behind one and behind two bytes
        first, end = -(-before * 4 // 3), (before + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            core = encode(bytes(before) + raw).decode("ascii")[first:end]
            if len(core) >= _SHORTEST:
                yield core


def _without(text: str, key: str) -> str:
    for form in _forms(key):
        text = text.replace(form, MARK)
    return _without_pieces(text, key, min(len(key), _SHORTEST))


def _without_pieces(text: str, key: str, shortest: int) -> str:
    pieces = {key[at : at + shortest] for at in range(len(key) - shortest + 1)}
    hidden = [
        any(text[at : at + shortest] in pieces for at in range(max(0, end - shortest), end))
        for end in range(1, len(text) + 1)
    ]
    out = "".join(MARK if gone else char for char, gone in zip(text, hidden, strict=True))
    return re.sub(f"{MARK}+", MARK, out) if any(hidden) else text


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1] or found[2], 16))
