"""A tokenizer as transformers makes it out of the files of a folder: which ones, which words win.

This follows PreTrainedTokenizerBase._from_pretrained and TokenizersBackend of transformers 5.23:
``added_tokens_decoder`` in tokenizer_config.json, where there is one, stands for
special_tokens_map.json and added_tokens.json, which older versions wrote; otherwise the former goes
before tokenizer_config.json. Tokens of tokenizer.json keep their ids and take over flags; special
tokens that nobody has yet are added behind the last one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.adapter.tokenizer.sentencepiece_model import (
    MAX_PIECES_BYTES,
    PIECES,
    Piece,
    parse_pieces,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_json import (
    MAX_VOCABULARY_BYTES,
    VOCABULARY,
    Added,
    TokenizerFile,
    flags_of,
    next_number,
    parse_tokenizer,
)
from phi3_lora_qa.errors import AdapterError

SETTINGS = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_MAX_SETTINGS = 8 << 20
_REMEMBERED = 1 << 20
"""Bytes; what is larger is parsed each time, and not held."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer.

    Attributes:
        file: tokenizer.json, or None where the folder has only a SentencePiece model.
        pieces: The SentencePiece model's pieces; empty where there is none that is needed.
        tokens: Every token with its id.
        added: The tokens that are found in a text before it is cut.
        special: The special tokens by name, such as ``eos_token``; None for one that is not set.
        extra: Further special tokens.
        listed: What a file beside says of a token's id: (file, token, id).
    """

    file: TokenizerFile | None
    pieces: tuple[Piece, ...]
    tokens: Mapping[str, int]
    added: Mapping[str, Added]
    special: Mapping[str, str | None]
    extra: tuple[str, ...]
    listed: tuple[tuple[str, str, int], ...]


def read_small(folder: AdapterFolder | BaseFiles, name: str, cap: int) -> bytes | None:
    """Return a file of the folder, or None where there is none.

    Raises:
        AdapterError: A file of the adapter cannot be read, or is larger than ``cap``.
        BaseModelError: Likewise, of the base.
    """
    if isinstance(folder, BaseFiles):
        return folder.read_text(name, cap)
    return folder.read_bytes(name, cap) if folder.file(name) else None


def read_object(folder: AdapterFolder | BaseFiles, name: str) -> dict[str, Any]:
    """Return the content of a small JSON file; empty where there is none.

    Raises:
        AdapterError: The file is no strict JSON object.
    """
    data = read_small(folder, name, _MAX_SETTINGS)
    if data is None:
        return {}
    found = _remembered(data, name) if len(data) <= _REMEMBERED else _parsed(data, name)
    if isinstance(found, AdapterError):
        raise found.with_traceback(None)
    return dict(found)


def _parsed(data: bytes, name: str) -> dict[str, Any] | AdapterError:
    try:
        return parse_object(data, where=name, max_bytes=_MAX_SETTINGS)
    except AdapterError as error:
        return error


# A dozen rules ask for the same few files.
_remembered = lru_cache(maxsize=8)(_parsed)


def read_tokenizer(
    folder: AdapterFolder | BaseFiles, like: tuple[bytes, TokenizerFile] | None = None
) -> tuple[Tokenizer, bytes] | None:
    """Read a folder's tokenizer, or return None where there is none that has a vocabulary.

    Args:
        folder: The adapter's or the base's.
        like: The bytes of a tokenizer.json that is read already, and what it says: the same bytes
            are not read twice.

    Returns:
        The tokenizer, and the bytes of its tokenizer.json.

    Raises:
        AdapterError: A file is unreadable, or says what transformers does not take.
    """
    data = read_small(folder, VOCABULARY, MAX_VOCABULARY_BYTES)
    model = None if data else read_small(folder, PIECES, MAX_PIECES_BYTES)
    if data is None and (model is None or is_tiktoken(model)):
        return None
    file = like[1] if data and like and like[0] == data else parse_tokenizer(data) if data else None
    pieces = parse_pieces(model) if model else ()
    words = file.words if file else {piece[0]: number for number, piece in enumerate(pieces)}
    own = file.added if file else {}
    settings = read_object(folder, SETTINGS)
    listed = tuple(_listed(settings, read_object(folder, ADDED_TOKENS)))
    older = {} if "added_tokens_decoder" in settings else read_object(folder, SPECIAL_MAP)
    special = {name: _text((settings | older).get(name), name) for name in NAMES}
    extra = tuple(dict.fromkeys([*_extra(settings), *_extra(older)]))
    if "added_tokens_decoder" in settings:
        beside = _beside(settings)
    else:
        beside = _legacy(folder, own, {*special.values(), *extra})
    added = _merged(words, own, beside, [*filter(None, special.values()), *extra])
    tokens = {**words, **{token: entry.number for token, entry in added.items()}}
    found = Tokenizer(
        file=file,
        pieces=pieces,
        tokens=tokens,
        added=added,
        special=special,
        extra=extra,
        listed=listed,
    )
    return found, data or b""


def is_tiktoken(data: bytes) -> bool:
    """Whether a tokenizer.model is tiktoken's table of words in base64; it is not looked into."""
    line = data.partition(b"\n")[0].split(b" ")
    return len(line) == 2 and line[1].strip().isdigit() and line[0].isascii()


def special_token(settings: Mapping[str, Any], name: str) -> str | None:
    """Return a special token's text, such as of ``pad_token``, in either form it is written."""
    value = settings.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _merged(
    words: Mapping[str, int],
    own: Mapping[str, Added],
    beside: Mapping[str, Added],
    special: list[str],
) -> dict[str, Added]:
    """Add to the tokens of tokenizer.json those of the files beside, and special ones."""
    added = dict(own)
    following = next_number(words, (entry.number for entry in own.values()))
    named = {token: Added(number=-1, flags=(False,) * 4, special=True) for token in special}
    news = [(t, n) for t, n in named.items() if t not in beside and t not in own]
    for token, entry in (*beside.items(), *news):
        known = added[token].number if token in added else words.get(token)
        number = following if known is None else known
        following = max(following, number + 1)
        added[token] = Added(
            number=number, flags=entry.flags, special=entry.special or token in named
        )
    return added


def _beside(settings: Mapping[str, Any]) -> dict[str, Added]:
    """Read added_tokens_decoder of tokenizer_config.json."""
    return {
        token: Added(number=number, flags=flags_of(raw), special=bool(raw.get("special")))
        for number, token, raw in sorted(_decoder(settings), key=lambda entry: entry[0])
    }


def _legacy(
    folder: AdapterFolder | BaseFiles, own: Mapping[str, Added], special: set[str | None]
) -> dict[str, Added]:
    """Read added_tokens.json; an id that tokenizer.json gives to a token is that token's."""
    taken = {entry.number for entry in own.values()}
    found = {}
    for token, number in read_object(folder, ADDED_TOKENS).items():
        if number not in taken:
            flags = (False, False, False, token not in special)
            found[token] = Added(number=number, flags=flags, special=token in special)
    return found


def _decoder(settings: Mapping[str, Any]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    table = settings.get("added_tokens_decoder") or {}
    if not isinstance(table, dict):
        raise _wrong(SETTINGS, "added_tokens_decoder")
    for number, raw in table.items():
        text = raw.get("content") if isinstance(raw, dict) else None
        if not number.isdecimal() or not isinstance(text, str):
            raise _wrong(SETTINGS, "added_tokens_decoder")
        yield int(number[:18]), text, raw


def _listed(
    settings: Mapping[str, Any], table: Mapping[str, Any]
) -> Iterator[tuple[str, str, int]]:
    for number, token, _ in _decoder(settings):
        yield SETTINGS, token, number
    for token, number in table.items():
        if type(number) is not int:
            raise _wrong(ADDED_TOKENS, "a token's id")
        yield ADDED_TOKENS, token, number


def _extra(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the special tokens that have no name of their own, or an unusual one."""
    for name in ("additional_special_tokens", "extra_special_tokens"):
        found = settings.get(name) or []
        if not isinstance(found, list | dict):
            raise _wrong(SETTINGS, name)
        for item in found.values() if isinstance(found, dict) else found:
            if (text := _text(item, name)) is not None:
                yield text
    for name in settings:
        text = special_token(settings, name)
        if name.endswith("_token") and name not in NAMES and text is not None:
            yield text


def _text(value: Any, name: str) -> str | None:
    if isinstance(value, dict):
        value = value.get("content", 0)
    if value is not None and not isinstance(value, str):
        raise _wrong(SETTINGS, name)
    return value


def _wrong(file: str, name: str) -> AdapterError:
    return AdapterError(f"{file} has no readable {name}", "save the tokenizer again")
