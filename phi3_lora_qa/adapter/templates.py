"""A tokenizer's small files, as far as rules compare them: template, special tokens, vocabulary."""

from collections.abc import Mapping
from typing import Any, Protocol

from phi3_lora_qa.adapter.base import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import AdapterError, BaseModelError

TEMPLATE = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"
VOCABULARY = "tokenizer.json"
_MAX_TEMPLATE = 1 << 20
_MAX_SETTINGS = 8 << 20
MAX_VOCABULARY_BYTES = 64 << 20


class _Source(Protocol):
    """A place where the files lie: an adapter's folder or a base's."""

    def __call__(self, name: str, cap: int, /) -> bytes | None: ...


def chat_template(folder: AdapterFolder | BaseFiles) -> str | None:
    """Return the chat template that a tokenizer from this folder would use, or None.

    Raises:
        AdapterError: A file is no strict JSON, no UTF-8, or too large.
    """
    data = _source(folder)(TEMPLATE, _MAX_TEMPLATE)
    if data is not None:
        try:
            return data.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise AdapterError(f"{TEMPLATE} is no UTF-8; save the tokenizer again") from error
    template = tokenizer_settings(folder).get("chat_template")
    if isinstance(template, list):
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template.strip() if isinstance(template, str) else None


def tokenizer_settings(folder: AdapterFolder | BaseFiles) -> Mapping[str, Any]:
    """Return the content of tokenizer_config.json; empty where there is none.

    Raises:
        AdapterError: The file is no strict JSON object.
    """
    data = _source(folder)(SETTINGS, _MAX_SETTINGS)
    return {} if data is None else parse_object(data, where=SETTINGS, max_bytes=_MAX_SETTINGS)


def special_token(settings: Mapping[str, Any], name: str) -> str | None:
    """Return a special token's text, such as of ``pad_token``, in either form it is written."""
    value = settings.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def vocabulary(folder: AdapterFolder | BaseFiles) -> dict[str, int] | None:
    """Return every token of a tokenizer.json with its id, added tokens included, or None.

    Raises:
        AdapterError: The file is too large, is no strict JSON, or not laid out as a tokenizer.
    """
    data = _vocabulary_bytes(folder)
    return None if data is None else _token_ids(data)


def same_vocabulary(folder: AdapterFolder, base: BaseFiles) -> bool:
    """Whether both have the same tokenizer.json, byte for byte; False where one cannot be read."""
    try:
        ours, theirs = _vocabulary_bytes(folder), _vocabulary_bytes(base)
    except (AdapterError, BaseModelError):
        return False  # reading it says why
    return ours is not None and ours == theirs


def _vocabulary_bytes(folder: AdapterFolder | BaseFiles) -> bytes | None:
    return _source(folder)(VOCABULARY, MAX_VOCABULARY_BYTES)


def _token_ids(data: bytes) -> dict[str, int]:
    raw = parse_object(data, where=VOCABULARY, max_bytes=MAX_VOCABULARY_BYTES)
    model, added = raw.get("model"), raw.get("added_tokens", [])
    words = model.get("vocab") if isinstance(model, dict) else None
    pairs: list[tuple[Any, Any]] = []
    if isinstance(words, dict):
        pairs.extend(words.items())
    elif isinstance(words, list):  # a unigram model: [token, score], its id is the position
        pairs.extend((w[0] if isinstance(w, list) and w else w, i) for i, w in enumerate(words))
    if isinstance(added, list):
        pairs.extend((t.get("content"), t.get("id")) for t in added if isinstance(t, dict))
    if not pairs or not all(isinstance(t, str) and type(i) is int for t, i in pairs):
        raise AdapterError(f"{VOCABULARY} has no readable vocabulary; save the tokenizer again")
    return dict(pairs)


def _source(folder: AdapterFolder | BaseFiles) -> _Source:
    if isinstance(folder, BaseFiles):
        return folder.read_text
    return lambda name, cap: folder.read_bytes(name, cap) if folder.file(name) else None
