"""Parses tokenizer.json into parts that can be compared.

The layout is that of Hugging Face's tokenizers 0.23 and of older versions: missing newer fields get
their defaults, and merges may be strings or pairs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
    "ByteLevel": ("trim_offsets",),  # the position of a token in the text, not its id
}
_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that is split off before the text is tokenized.

    Attributes:
        token_id: The id of the token.
        flags: single_word, lstrip, rstrip and normalized: whether it must be a single word, absorbs
            the blanks on its left and on its right, and is matched in the normalized text.
        special: Whether it is skipped when an answer is decoded.
    """

    token_id: int
    flags: tuple[bool, bool, bool, bool]
    special: bool


@dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """The content of a tokenizer.json.

    Attributes:
        vocabulary: The model's vocabulary.
        added: The added tokens, with the ids that they get when the file is loaded.
        parts: Every other part that affects ids or decoding, in a canonical form, equal for layouts
            that mean the same; None for a part that does nothing.
        id_mismatches: Tokens whose declared id differs from the id that they get.
        length_settings: Which of truncation and padding are set; a program that uses the file as it
            is applies them.
    """

    vocabulary: Mapping[str, int]
    added: Mapping[str, AddedToken]
    parts: Mapping[str, Any]
    id_mismatches: tuple[str, ...]
    length_settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> dict[str, int]:
        """Every token with its id."""
        return {**self.vocabulary, **{token: one.token_id for token, one in self.added.items()}}


def parse_tokenizer(data: bytes) -> TokenizerFile:
    """Parse a tokenizer.json.

    Raises:
        AdapterError: It is too large, not strict JSON, or not readable by tokenizers.
    """
    raw = parse_object(data, where=VOCABULARY, max_bytes=MAX_VOCABULARY_BYTES)
    if unknown := sorted(set(raw) - _FIELDS):
        raise _unreadable(f"has an unknown part {unknown[0]!r}")
    if raw.get("version", "1.0") != "1.0":
        raise _unreadable("has an unknown version")
    kind, model = _model(raw.get("model"))
    vocabulary = _vocabulary(model.pop("vocab", None))
    has_affixes = any(map(model.get, _AFFIXES))
    merges = _merges(model.pop("merges", []), vocabulary, has_affixes=has_affixes)
    added, id_mismatches = _added_tokens(raw.get("added_tokens") or [], vocabulary)
    parts = {
        "model": {"type": kind, **model},
        "merges": merges,
        "normalizer": _canonical(raw.get("normalizer")),
        "pre_tokenizer": _canonical(raw.get("pre_tokenizer")),
        "post_processor": _special_frame(raw.get("post_processor")),
        "decoder": _canonical(raw.get("decoder")),
    }
    if kind == "Unigram":  # its scores affect the ids, too
        parts["scores"] = _scores(raw["model"]["vocab"])
    return TokenizerFile(
        vocabulary=vocabulary,
        added=added,
        parts=parts,
        id_mismatches=id_mismatches,
        length_settings={
            name: _length(raw[name]) for name in ("truncation", "padding") if raw.get(name)
        },
    )


def _length(settings: Any) -> str:
    """Say to which length a setting cuts or pads, as text."""
    if not isinstance(settings, dict):
        return "a length of its own"
    strategy = settings.get("strategy")
    fixed = strategy.get("Fixed") if isinstance(strategy, dict) else None
    size = settings.get("max_length", fixed)
    return f"{size} tokens" if type(size) is int else "the longest text"


def flags_of(raw: Mapping[str, Any]) -> tuple[bool, bool, bool, bool]:
    """Return the flags of an added token with the defaults of transformers and tokenizers."""
    normalized = raw.get("normalized")
    return (
        bool(raw.get("single_word")),
        bool(raw.get("lstrip")),
        bool(raw.get("rstrip")),
        not raw.get("special") if normalized is None else bool(normalized),
    )


def next_token_id(vocabulary: Mapping[str, int], added: Iterable[int]) -> int:
    """Return the id that tokenizers assigns to the next new token."""
    return max(len(vocabulary), 1 + max(added, default=-1))


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
            model[name] = model[name] or None  # an empty affix does nothing
    if "dropout" in model:
        model["dropout"] = model["dropout"] or None
    return kind, model


def _vocabulary(raw: Any) -> dict[str, int]:
    pairs: list[tuple[Any, Any]] = []
    if isinstance(raw, dict):
        pairs = list(raw.items())
    elif isinstance(raw, list):  # a unigram model: [token, score]; the id is the index
        pairs = [(w[0] if isinstance(w, list) and w else w, i) for i, w in enumerate(raw)]
    if not pairs or not all(isinstance(t, str) and type(i) is int and i >= 0 for t, i in pairs):
        raise _unreadable("has an invalid vocabulary")
    return dict(pairs)


def _scores(raw: list[Any]) -> list[Any]:
    if not all(isinstance(w, list) and len(w) == 2 and type(w[1]) in (int, float) for w in raw):
        raise _unreadable("has invalid scores")
    return [word[1] for word in raw]


def _merges(raw: Any, vocabulary: Mapping[str, int], *, has_affixes: bool) -> list[str]:
    """Return the merges as strings, as in old files; both parts and the result must be tokens."""
    if not isinstance(raw, list):
        raise _unreadable("has invalid merges")
    found = []
    for merge in raw:  # up to 200,000 of them: no generator for each
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2):
            raise _unreadable("has invalid merges")
        left, right = pair
        if not (type(left) is str and type(right) is str):
            raise _unreadable("has invalid merges")
        are_tokens = left in vocabulary and right in vocabulary and left + right in vocabulary
        if not has_affixes and not are_tokens:
            raise _unreadable(f"merges {left!r} and {right!r}, which are not tokens")
        found.append(merge if isinstance(merge, str) else f"{left} {right}")
    return found


def _added_tokens(
    raw: Any, vocabulary: Mapping[str, int]
) -> tuple[dict[str, AddedToken], tuple[str, ...]]:
    if not isinstance(raw, list):
        raise _unreadable("has invalid added tokens")
    added: dict[str, AddedToken] = {}
    mismatches = []
    next_id = len(vocabulary)
    for entry in raw:
        token = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(token, str) or type(entry.get("id")) is not int:
            raise _unreadable("has invalid added tokens")
        known = added[token].token_id if token in added else vocabulary.get(token)
        token_id = next_id if known is None else known
        next_id = max(next_id, token_id + 1)
        if token_id != entry["id"]:
            mismatches.append(token)
        added[token] = AddedToken(
            token_id=token_id, flags=flags_of(entry), special=bool(entry.get("special"))
        )
    return added, tuple(mismatches)


def _canonical(raw: Any) -> Any:
    """Return a part in canonical form for all versions; None if it does nothing."""
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


def _special_frame(raw: Any) -> Any:
    """Return the special tokens that a post-processor adds: ids, and None for the text itself.

    Pairs of texts are ignored, because a prompt is a single text, and so are offsets.
    """
    part = _canonical(raw)
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Sequence":
        frames = [f for f in map(_special_frame, part.get("processors", [])) if f is not None]
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
        raise _unreadable("has an invalid post_processor") from None
    return None if frame == [None] else tuple(frame)


def _unreadable(what: str) -> AdapterError:
    return AdapterError(f"{VOCABULARY} {escape(what)}", "save the tokenizer again")
