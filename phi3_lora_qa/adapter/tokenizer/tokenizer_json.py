"""tokenizer.json in parts that can be compared: what cuts a text into numbers, and what does not.

The layout is that of Hugging Face's tokenizers 0.23, and of its older versions: fields that came
later stand for what they meant before, merges may be texts or pairs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import AdapterError, escape

VOCABULARY = "tokenizer.json"
MAX_VOCABULARY_BYTES = 64 << 20

_FIELDS = frozenset({
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
    "post_processor", "decoder", "model",
})  # fmt: skip
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")
_MODEL_DEFAULTS = {
    "BPE": {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    },
    "Unigram": {"unk_id": None, "byte_fallback": False},
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Metaspace": {"prepend_scheme": "always", "split": True},
    "ByteLevel": {"use_regex": True},
    "Punctuation": {"behavior": "Isolated"},
}
_WITHOUT_EFFECT = {
    "Metaspace": ("str_rep", "add_prefix_space"),
    "ByteLevel": ("trim_offsets",),  # where a token lies in the text, not which one it is
}
_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token that is found in a text before the text is cut.

    Attributes:
        number: The id that it gets.
        flags: Whether it must be a single word, takes the blanks on its left and on its right with
            it, and is looked for in the normalised text.
        special: Whether it is left out when an answer is decoded.
    """

    number: int
    flags: tuple[bool, bool, bool, bool]
    special: bool


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """What a tokenizer.json says.

    Attributes:
        words: The model's vocabulary.
        added: The added tokens, with the ids that they get when the file is read.
        parts: Every other part that decides about ids, or about decoding, in one form for all
            layouts that mean the same; None for a part that does nothing.
        misread: Tokens that are listed under another id than they get.
        resizing: Which of truncation and padding are set: what takes the file as it is does so.
    """

    words: Mapping[str, int]
    added: Mapping[str, Added]
    parts: Mapping[str, Any]
    misread: tuple[str, ...]
    resizing: tuple[str, ...] = ()

    @property
    def tokens(self) -> dict[str, int]:
        """Every token with its id."""
        return {**self.words, **{token: entry.number for token, entry in self.added.items()}}


def parse_tokenizer(data: bytes) -> TokenizerFile:
    """Read a tokenizer.json.

    Raises:
        AdapterError: It is too large, no strict JSON, or nothing that tokenizers reads.
    """
    raw = parse_object(data, where=VOCABULARY, max_bytes=MAX_VOCABULARY_BYTES)
    if unknown := sorted(set(raw) - _FIELDS):
        raise _unreadable(f"has an unknown part {unknown[0]!r}")
    if raw.get("version", "1.0") != "1.0":
        raise _unreadable("is of an unknown version")
    kind, model = _model(raw.get("model"))
    words = _words(model.pop("vocab", None))
    merges = _merges(model.pop("merges", []), words, plain=not any(map(model.get, _AFFIXES)))
    added, misread = _added(raw.get("added_tokens") or [], words)
    parts = {
        "model": {"type": kind, **model},
        "merges": merges,
        "normalizer": _canonical(raw.get("normalizer")),
        "pre_tokenizer": _canonical(raw.get("pre_tokenizer")),
        "post_processor": _framing(raw.get("post_processor")),
        "decoder": _canonical(raw.get("decoder")),
    }
    if kind == "Unigram":  # its scores decide about ids, too
        parts["scores"] = _scores(raw["model"]["vocab"])
    resizing = tuple(name for name in ("truncation", "padding") if raw.get(name))
    return TokenizerFile(words=words, added=added, parts=parts, misread=misread, resizing=resizing)


def flags_of(raw: Mapping[str, Any]) -> tuple[bool, bool, bool, bool]:
    """Return the flags of an added token as transformers and tokenizers read them."""
    normalized = raw.get("normalized")
    return (
        bool(raw.get("single_word")),
        bool(raw.get("lstrip")),
        bool(raw.get("rstrip")),
        not raw.get("special") if normalized is None else bool(normalized),
    )


def next_number(words: Mapping[str, int], added: Iterable[int]) -> int:
    """Return the id that tokenizers gives to a token that nobody has yet."""
    return max(len(words), 1 + max(added, default=-1))


_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")


def _model(raw: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(raw, dict):
        raise _unreadable("has no model")
    guess = "BPE" if "merges" in raw else "Unigram" if "unk_id" in raw else "WordLevel"
    kind = raw.get("type", guess)
    if kind not in _MODELS:
        raise _unreadable("has a model of an unknown type")
    model = {**_MODEL_DEFAULTS.get(kind, {}), **raw}
    model.pop("type", None)
    for name in _AFFIXES:
        if name in model:
            model[name] = model[name] or None  # an empty one adds nothing
    if "dropout" in model:
        model["dropout"] = model["dropout"] or None
    return kind, model


def _words(raw: Any) -> dict[str, int]:
    pairs: list[tuple[Any, Any]] = []
    if isinstance(raw, dict):
        pairs = list(raw.items())
    elif isinstance(raw, list):  # a unigram model: [token, score], its id is the position
        pairs = [(w[0] if isinstance(w, list) and w else w, i) for i, w in enumerate(raw)]
    if not pairs or not all(isinstance(t, str) and type(i) is int and i >= 0 for t, i in pairs):
        raise _unreadable("has no readable vocabulary")
    return dict(pairs)


def _scores(raw: list[Any]) -> list[Any]:
    if not all(isinstance(w, list) and len(w) == 2 and type(w[1]) in (int, float) for w in raw):
        raise _unreadable("has no readable scores")
    return [word[1] for word in raw]


def _merges(raw: Any, words: Mapping[str, int], *, plain: bool) -> list[str]:
    """Return the merges as texts, as old files have them; of each both parts must be tokens."""
    if not isinstance(raw, list):
        raise _unreadable("has no readable merges")
    found = []
    for merge in raw:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(p) is str for p in pair)):
            raise _unreadable("has no readable merges")
        if plain and not (pair[0] in words and pair[1] in words and pair[0] + pair[1] in words):
            raise _unreadable(f"merges {pair[0]!r} and {pair[1]!r}, which are no tokens")
        found.append(merge if isinstance(merge, str) else " ".join(pair))
    return found


def _added(raw: Any, words: Mapping[str, int]) -> tuple[dict[str, Added], tuple[str, ...]]:
    if not isinstance(raw, list):
        raise _unreadable("has no readable added tokens")
    added: dict[str, Added] = {}
    misread = []
    following = len(words)
    for entry in raw:
        token = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(token, str) or type(entry.get("id")) is not int:
            raise _unreadable("has no readable added tokens")
        known = added[token].number if token in added else words.get(token)
        number = following if known is None else known
        following = max(following, number + 1)
        if number != entry["id"]:
            misread.append(token)
        added[token] = Added(
            number=number, flags=flags_of(entry), special=bool(entry.get("special"))
        )
    return added, tuple(misread)


def _canonical(raw: Any) -> Any:
    """Return a part in one form, whatever version wrote it; None for one that does nothing."""
    if not isinstance(raw, dict):
        return raw
    kind = raw.get("type")
    found = {**_DEFAULTS.get(kind, {}), **raw} if isinstance(kind, str) else dict(raw)
    if kind == "Metaspace" and raw.get("add_prefix_space") is False:
        found["prepend_scheme"] = "never"
    for name in _WITHOUT_EFFECT.get(kind, ()) if isinstance(kind, str) else ():
        found.pop(name, None)
    for name in _LISTS:
        if isinstance(found.get(name), list):
            inner = [part for part in map(_canonical, found[name]) if part is not None]
            return {"type": kind, name: inner} if len(inner) > 1 else inner[0] if inner else None
    return found


def _framing(raw: Any) -> Any:
    """Return what a post-processor puts around a text: ids, and None where the text stands.

    Pairs of texts are not what a language model is asked with, and offsets are no ids.
    """
    part = _canonical(raw)
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Sequence":
        frames = [f for f in map(_framing, part.get("processors", [])) if f is not None]
        return frames[0] if len(frames) == 1 else frames or None
    if part.get("type") == "ByteLevel":
        return None
    if part.get("type") != "TemplateProcessing":
        return part
    try:
        table = part.get("special_tokens") or {}
        frame: list[int | None] = []
        for piece in part["single"]:
            special = piece.get("SpecialToken")
            frame += [None] if special is None else table[special["id"]]["ids"]
    except (KeyError, TypeError, AttributeError):
        raise _unreadable("has no readable post_processor") from None
    return None if frame == [None] else tuple(frame)


def _unreadable(what: str) -> AdapterError:
    return AdapterError(f"{VOCABULARY} {escape(what)}", "save the tokenizer again")
