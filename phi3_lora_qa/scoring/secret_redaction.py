"""Remove a key from untrusted text, in any encoding."""

import base64
import html
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote_plus

MARK = "…"
_MIN_PIECE = 8
"""This many consecutive characters of the key count as a piece of it; fewer occur by chance."""
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")


def redact(text: str, key: str) -> str:
    """Return a text without the key and without longer pieces of it. Redact first, then truncate.

    The key is found as it is, as URLs, JSON and HTML escape it, and in base64 and hexadecimal.
    """
    if not key:
        return text
    plain = html.unescape(unquote_plus(_ESCAPED.sub(_character, text)))
    if plain != text and _without(plain, key) != plain:
        text = plain  # the key was escaped in an unknown way, so the unescaped text is shown
    return _without(text, key)


def redact_bytes(data: bytes, key: str) -> bytes:
    """Remove the whole key from a response of any size, so that truncation cannot split it."""
    for form in _forms(key) if key else ():
        data = data.replace(form.encode("ascii"), MARK.encode())
    return data


def _forms(key: str) -> Iterator[str]:
    """Yield the encodings of the key, the longest first."""
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
    for before in range(3):  # its base64 depends on how many bytes precede it, modulo three
        first, end = -(-before * 4 // 3), (before + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            core = encode(bytes(before) + raw).decode("ascii")[first:end]
            if len(core) >= _MIN_PIECE:
                yield core


def _without(text: str, key: str) -> str:
    for form in _forms(key):
        text = text.replace(form, MARK)
    return _without_pieces(text, key, min(len(key), _MIN_PIECE))


def _without_pieces(text: str, key: str, size: int) -> str:
    pieces = {key[start : start + size] for start in range(len(key) - size + 1)}
    hidden = [
        any(text[start : start + size] in pieces for start in range(max(0, end - size), end))
        for end in range(1, len(text) + 1)
    ]
    redacted = "".join(MARK if hide else char for char, hide in zip(text, hidden, strict=True))
    return re.sub(f"{MARK}+", MARK, redacted) if any(hidden) else text


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1] or found[2], 16))
