"""Reads the tokenizer files of a folder and combines them as transformers does.

This follows PreTrainedTokenizerBase._from_pretrained and TokenizersBackend of transformers 5.23.
``added_tokens_decoder`` in tokenizer_config.json replaces special_tokens_map.json and
added_tokens.json, which older versions wrote; without it, special_tokens_map.json overrides
tokenizer_config.json. Tokens of tokenizer.json keep their ids and take over the flags; special
tokens that are missing are added after the last one.
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
    AddedToken,
    TokenizerFile,
    flags_of,
    next_token_id,
    parse_tokenizer,
)
from phi3_lora_qa.errors import AdapterError

SETTINGS = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_MAX_SETTINGS = 8 << 20
_MAX_CACHED_BYTES = 1 << 20
"""Larger files are parsed each time, and not kept in memory."""


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer, combined from the files of a folder.

    Attributes:
        file: tokenizer.json, or None if the folder has only a SentencePiece model.
        pieces: The pieces of the SentencePiece model; empty if it is missing or not needed.
        tokens: Every token with its id.
        added: The tokens that are split off before the text is tokenized.
        special: The special tokens by name, such as ``eos_token``; None for one that is not set.
        extra: Further special tokens.
        declared_ids: The token ids that other files than tokenizer.json declare, as (file, token,
            id).
    """

    file: TokenizerFile | None
    pieces: tuple[Piece, ...]
    tokens: Mapping[str, int]
    added: Mapping[str, AddedToken]
    special: Mapping[str, str | None]
    extra: tuple[str, ...]
    declared_ids: tuple[tuple[str, str, int], ...]


def read_small(folder: AdapterFolder | BaseFiles, name: str, max_bytes: int) -> bytes | None:
    """Return the content of a file of the folder, or None if it is missing.

    Raises:
        AdapterError: A file of the adapter cannot be read, or is larger than ``max_bytes``.
        BaseModelError: The same for a file of the base.
    """
    if isinstance(folder, BaseFiles):
        return folder.read_bytes(name, max_bytes)
    return folder.read_bytes(name, max_bytes) if folder.file(name) else None


def read_object(folder: AdapterFolder | BaseFiles, name: str) -> dict[str, Any]:
    """Return the content of a small JSON file; empty if it is missing.

    Raises:
        AdapterError: The file is not a strict JSON object.
    """
    data = read_small(folder, name, _MAX_SETTINGS)
    if data is None:
        return {}
    found = _cached(data, name) if len(data) <= _MAX_CACHED_BYTES else _parsed(data, name)
    if isinstance(found, AdapterError):
        raise found.with_traceback(None)
    return dict(found)


def _parsed(data: bytes, name: str) -> dict[str, Any] | AdapterError:
    try:
        return parse_object(data, where=name, max_bytes=_MAX_SETTINGS)
    except AdapterError as error:
        return error


# A dozen rules read the same few files.
_cached = lru_cache(maxsize=8)(_parsed)


def read_tokenizer(
    folder: AdapterFolder | BaseFiles, parsed: tuple[bytes, TokenizerFile] | None = None
) -> tuple[Tokenizer, bytes] | None:
    """Read a folder's tokenizer; return None if it has no vocabulary.

    Args:
        folder: The folder of the adapter or of the base.
        parsed: The bytes and the content of a tokenizer.json that is parsed already: the same bytes
            are not parsed again.

    Returns:
        The tokenizer, and the bytes of its tokenizer.json.

    Raises:
        AdapterError: A file is unreadable, or has content that transformers rejects.
    """
    data = read_small(folder, VOCABULARY, MAX_VOCABULARY_BYTES)
    model = None if data else read_small(folder, PIECES, MAX_PIECES_BYTES)
    if data is None and (model is None or is_tiktoken(model)):
        return None
    file = None
    if data:
        file = parsed[1] if parsed and parsed[0] == data else parse_tokenizer(data)
    pieces = parse_pieces(model) if model else ()
    vocabulary = file.vocabulary if file else {piece[0]: i for i, piece in enumerate(pieces)}
    own = file.added if file else {}
    settings = read_object(folder, SETTINGS)
    declared_ids = tuple(_declared_ids(settings, read_object(folder, ADDED_TOKENS)))
    older = {} if "added_tokens_decoder" in settings else read_object(folder, SPECIAL_MAP)
    special = {name: _text((settings | older).get(name), name) for name in NAMES}
    extra = tuple(dict.fromkeys([*_extra(settings), *_extra(older)]))
    if "added_tokens_decoder" in settings:
        others = _from_settings(settings)
    else:
        others = _from_added_tokens(folder, own, {*special.values(), *extra})
    added = _merged(vocabulary, own, others, [*filter(None, special.values()), *extra])
    tokens = {**vocabulary, **{token: entry.token_id for token, entry in added.items()}}
    found = Tokenizer(
        file=file,
        pieces=pieces,
        tokens=tokens,
        added=added,
        special=special,
        extra=extra,
        declared_ids=declared_ids,
    )
    return found, data or b""


def is_tiktoken(data: bytes) -> bool:
    """Whether a tokenizer.model is tiktoken's base64 table, which is not parsed."""
    line = data.partition(b"\n")[0].split(b" ")
    return len(line) == 2 and line[1].strip().isdigit() and line[0].isascii()


def special_token(settings: Mapping[str, Any], name: str) -> str | None:
    """Return the text of a special token, such as ``pad_token``, from a string or an object."""
    value = settings.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _merged(
    vocabulary: Mapping[str, int],
    own: Mapping[str, AddedToken],
    others: Mapping[str, AddedToken],
    special: list[str],
) -> dict[str, AddedToken]:
    """Add the tokens of the other files, and the special tokens, to those of tokenizer.json."""
    added = dict(own)
    next_id = next_token_id(vocabulary, (entry.token_id for entry in own.values()))
    named = {token: AddedToken(token_id=-1, flags=(False,) * 4, special=True) for token in special}
    new = [(t, n) for t, n in named.items() if t not in others and t not in own]
    for token, entry in (*others.items(), *new):
        known = added[token].token_id if token in added else vocabulary.get(token)
        token_id = next_id if known is None else known
        next_id = max(next_id, token_id + 1)
        added[token] = AddedToken(
            token_id=token_id, flags=entry.flags, special=entry.special or token in named
        )
    return added


def _from_settings(settings: Mapping[str, Any]) -> dict[str, AddedToken]:
    """Read added_tokens_decoder of tokenizer_config.json."""
    return {
        token: AddedToken(token_id=token_id, flags=flags_of(raw), special=bool(raw.get("special")))
        for token_id, token, raw in sorted(_decoder(settings), key=lambda entry: entry[0])
    }


def _from_added_tokens(
    folder: AdapterFolder | BaseFiles, own: Mapping[str, AddedToken], special: set[str | None]
) -> dict[str, AddedToken]:
    """Read added_tokens.json, except ids that tokenizer.json already assigns."""
    taken = {entry.token_id for entry in own.values()}
    found = {}
    for token, token_id in read_object(folder, ADDED_TOKENS).items():
        if token_id not in taken:
            flags = (False, False, False, token not in special)
            found[token] = AddedToken(token_id=token_id, flags=flags, special=token in special)
    return found


def _decoder(settings: Mapping[str, Any]) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    table = settings.get("added_tokens_decoder") or {}
    if not isinstance(table, dict):
        raise _invalid(SETTINGS, "added_tokens_decoder")
    for number, raw in table.items():
        text = raw.get("content") if isinstance(raw, dict) else None
        if not number.isdecimal() or not isinstance(text, str):
            raise _invalid(SETTINGS, "added_tokens_decoder")
        yield int(number[:18]), text, raw


def _declared_ids(
    settings: Mapping[str, Any], table: Mapping[str, Any]
) -> Iterator[tuple[str, str, int]]:
    for number, token, _ in _decoder(settings):
        yield SETTINGS, token, number
    for token, number in table.items():
        if type(number) is not int:
            raise _invalid(ADDED_TOKENS, "token id")
        yield ADDED_TOKENS, token, number


def _extra(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the special tokens without a name, or with a name that is not in `NAMES`."""
    for name in ("additional_special_tokens", "extra_special_tokens"):
        found = settings.get(name) or []
        if not isinstance(found, list | dict):
            raise _invalid(SETTINGS, name)
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
        raise _invalid(SETTINGS, name)
    return value


def _invalid(file: str, name: str) -> AdapterError:
    return AdapterError(f"{file} has an invalid {name}", "save the tokenizer again")
