"""Family tokenizer, continued: the tokenizer in the folder makes of a text what the base's makes.

What decides about ids is an error where it differs, and what puts other words into answers; what
else decoding changes is a warning. So is what versions of transformers themselves write otherwise:
a start token put before a text, and SentencePiece's blanks as a normalizer or as a pre-tokenizer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.tensor_names import Part, tensor_name
from phi3_lora_qa.adapter.tokenizer.sentencepiece_model import (
    MAX_PIECES_BYTES,
    PIECES,
    parse_other_fields,
    parse_pieces,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import (
    SETTINGS,
    Tokenizer,
    is_tiktoken,
    read_object,
    read_small,
)
from phi3_lora_qa.adapter.tokenizer.tokenizer_json import VOCABULARY
from phi3_lora_qa.errors import AdapterError

_OWN = "save the base's own tokenizer beside the adapter"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_ANY_CLASS = (
    "PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "LlamaTokenizer",
    "GPT2Tokenizer",
)  # fmt: skip
"""Classes that read a tokenizer.json as it is, in one version of transformers or another."""


@rule(
    "tokenizer-vocabulary",
    severity=Severity.ERROR,
    title="Every token has the number that it has in the base",
    why="A token under another number is another word to the model.",
    fix=_OWN,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def vocabulary(context: LintContext) -> Iterator[Violation]:
    """Compare the two vocabularies, where both are there."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = (tokenizer.tokens for tokenizer in pair)
    moved = [t for t, number in ours.items() if theirs.get(t, number) != number]
    gone = [t for t in theirs if t not in ours]
    if moved or gone:
        shown = ", ".join(map(repr, (moved or gone)[:3]))
        text = f"{len(moved)} tokens have other numbers, {len(gone)} are gone: {shown}"
        yield Violation(VOCABULARY, text)


@rule(
    "tokenizer-added-tokens",
    severity=Severity.ERROR,
    title="Every token has a row in the embedding table",
    why="A token beyond the table's last row raises an index error, or reads another's memory.",
    fix="train with the embedding table resized and in modules_to_save, and give that base",
    needs=["tokenizer", "base"],
)
def added_tokens(context: LintContext) -> Iterator[Violation]:
    """Find tokens whose number is beyond the base's table."""
    own, rows = context.tokenizer, context.base.vocabulary
    if own is None or tensor_name("model.embed_tokens", Part.WEIGHT) in context.keys:
        return
    numbers = (*own.tokens.items(), *((token, number) for _, token, number in own.declared_ids))
    outside = list(dict.fromkeys(token for token, number in numbers if number >= rows))
    if outside:
        first = outside[0]
        text = f"{len(outside)} tokens, {first!r} among them, are beyond the base's {rows} rows"
        yield Violation(VOCABULARY, text)


@rule(
    "tokenizer-untrained-tokens",
    severity=Severity.WARNING,
    title="Every added token was trained",
    why="A token that the base does not know uses a spare row of its table, which holds noise "
    "until it is trained: the model reads and writes noise there.",
    fix="train with modules_to_save or trainable_token_indices for the new tokens' rows",
    needs=["tokenizer", "base", "base's tokenizer", "config"],
)
def untrained_tokens(context: LintContext) -> Iterator[Violation]:
    """Find tokens on spare rows of the base; padding is masked, so that it need not be trained."""
    config, pair = context.config, _pair(context)
    trained = {t for tokens in config.trainable_token_indices.values() for t in tokens}
    named = (*config.modules_to_save, *config.target_modules)
    if pair is None or any("embed_tokens" in name for name in named):
        return
    ours, theirs = pair
    added = [
        token
        for token, number in ours.tokens.items()
        if token not in theirs.tokens
        and number < context.base.vocabulary
        and number not in trained
        and token != ours.special["pad_token"]
    ]
    if added:
        shown = ", ".join(map(repr, added[:3]))
        yield Violation(VOCABULARY, f"{len(added)} tokens that the base does not know: {shown}")


@rule(
    "tokenizer-pieces",
    severity=Severity.ERROR,
    title="A text is cut into the pieces that the base's tokenizer cuts it into",
    why="With other merges, another normalizer or other flags the same words become other tokens "
    "than the base and the adapter were trained on.",
    fix=_OWN,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def pieces(context: LintContext) -> Iterator[Violation]:
    """Compare all that decides about ids but the vocabulary itself."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = pair
    for name in _other_parts(ours, theirs):
        if name != "decoder" and not _is_of_versions(name, ours, theirs):
            yield Violation(VOCABULARY, f"its {name} is not the base's")
    for step in _own_steps(ours, theirs):
        yield Violation(VOCABULARY, f"its decoder changes words: {step!r:.100}")
    yield from _other_model(context)
    for token, entry in ours.added.items():
        other = theirs.added.get(token)
        if other and entry.flags != other.flags:
            pairs = zip(_FLAGS, entry.flags, other.flags, strict=True)
            names = ", ".join(name for name, mine, its in pairs if mine != its)
            yield Violation(VOCABULARY, f"the token {token!r} is not found as in the base: {names}")
    for token in theirs.added:
        if token not in ours.added and token in ours.tokens:
            yield Violation(
                VOCABULARY, f"the token {token!r} is cut as any word; in the base it is not"
            )


@rule(
    "tokenizer-special-tokens",
    severity=Severity.ERROR,
    title="No word of the base is made a special token, and an answer has an end",
    why="A word that is made a special token is cut out of every text that holds it, and left out "
    "of answers. Without an eos_token those who stop at it never do.",
    fix=_OWN,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def special_tokens(context: LintContext) -> Iterator[Violation]:
    """Find words of the base among the added tokens, an eos_token gone, and all of them off."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = pair
    names = {token: name for name, token in ours.special.items() if token}
    for token in ours.added:
        if token not in theirs.added and token in theirs.tokens:
            what = names.get(token, "an added token")
            yield Violation(SETTINGS, f"{what} is {token!r}, an ordinary word of the base")
    if theirs.special["eos_token"] and not ours.special["eos_token"]:
        yield Violation(
            SETTINGS, f"eos_token is not set, in the base it is {_shown(theirs, 'eos_token')}"
        )
    if _settings(context).get("split_special_tokens"):
        yield Violation(SETTINGS, "split_special_tokens cuts the special tokens as any word")


@rule(
    "tokenizer-special-tokens-differ",
    severity=Severity.WARNING,
    title="The special tokens are the base's",
    why="A program that stops at the eos_token, or puts the bos_token before a prompt, does so "
    "with other tokens than for the base.",
    fix="serve the adapter with the tokenizer of its own folder, if it was trained with it",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def special_tokens_differ(context: LintContext) -> Iterator[Violation]:
    """Compare them by name; what an adapter pads with is its own affair."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = pair
    for name, token in ours.special.items():
        gone = name == "eos_token" and token is None  # tokenizer-special-tokens says it
        if name != "pad_token" and token != theirs.special[name] and not gone:
            other = _shown(theirs, name)
            yield Violation(SETTINGS, f"{name} is {_shown(ours, name)}, in the base it is {other}")
    settings, base = _settings(context), read_object(context.base, SETTINGS)
    for name in ("add_bos_token", "add_eos_token"):
        if settings.get(name) and not base.get(name):
            yield Violation(SETTINGS, f"{name} is set, unlike in the base")


@rule(
    "tokenizer-decoding",
    severity=Severity.WARNING,
    title="Tokens become text as in the base, and blanks and the start are treated alike",
    why="Answers look otherwise than the base's: with other blanks, or with special tokens in "
    "them. Versions of transformers write some of this otherwise themselves.",
    fix=_OWN,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def decoding(context: LintContext) -> Iterator[Violation]:
    """Find differences that change no id, or that transformers itself makes."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = pair
    for name in _other_parts(ours, theirs):
        if name == "decoder" or _is_of_versions(name, ours, theirs):
            yield Violation(VOCABULARY, f"its {name} is not the base's")
    for part in ours.file.length_settings if ours.file else ():
        if not theirs.file or part not in theirs.file.length_settings:
            yield Violation(
                VOCABULARY, f"{part} is set: a program that takes the file as it is does so"
            )
    name = "clean_up_tokenization_spaces"
    mine, its = _settings(context).get(name), read_object(context.base, SETTINGS).get(name)
    if mine is True and its is False:
        yield Violation(SETTINGS, f"{name} takes blanks out of answers, unlike in the base")
    named = {*ours.special.values(), *theirs.special.values()}
    for token, entry in ours.added.items():
        other = theirs.added.get(token)
        if other and entry.special != other.special and token not in named:
            kept = "is left out of answers" if entry.special else "is shown in answers"
            yield Violation(VOCABULARY, f"the token {token!r} {kept}, unlike in the base")


@rule(
    "tokenizer-class",
    severity=Severity.ERROR,
    title="The tokenizer is of the base's class, or of one for any tokenizer.json",
    why="transformers makes another class's tokenizer of the same files, or none at all.",
    fix=_OWN,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def tokenizer_class(context: LintContext) -> Iterator[Violation]:
    """Compare tokenizer_class."""
    own = _settings(context).get("tokenizer_class")
    base = read_object(context.base, SETTINGS).get("tokenizer_class")
    if own is None or own == base:
        return
    known = [*_ANY_CLASS, *([base.removesuffix("Fast")] if isinstance(base, str) else [])]
    if not isinstance(own, str) or not {own, own.removesuffix("Fast")} & set(known):
        yield Violation(SETTINGS, f"tokenizer_class is {own!r}, in the base it is {base!r}")


def _pair(context: LintContext) -> tuple[Tokenizer, Tokenizer] | None:
    ours, theirs = context.tokenizer, context.base_tokenizer
    return (ours, theirs) if ours and theirs else None


def _other_parts(ours: Tokenizer, theirs: Tokenizer) -> list[str]:
    """Return the names of the parts of tokenizer.json that differ."""
    if ours.file is None or theirs.file is None or ours.file is theirs.file:
        return []
    mine, its = ours.file.parts, theirs.file.parts
    return [name for name in {**mine, **its} if mine.get(name) != its.get(name)]


def _is_of_versions(name: str, ours: Tokenizer, theirs: Tokenizer) -> bool:
    """Whether a difference is one that versions of transformers make themselves."""
    if ours.file is None or theirs.file is None:
        return False
    mine, its = ours.file.parts, theirs.file.parts
    if name in ("normalizer", "pre_tokenizer"):
        return _marks_blanks(mine) and _marks_blanks(its)
    if name == "post_processor":
        start = {t.tokens.get(t.special["bos_token"] or "") for t in (ours, theirs)}
        return bool(_without(mine[name], start) == _without(its[name], start))
    return False


def _other_model(context: LintContext) -> Iterator[Violation]:
    """Compare tokenizer.model with the base's: scores decide how a text is cut, as merges do."""
    try:
        own = read_small(context.folder, PIECES, MAX_PIECES_BYTES)
    except AdapterError:
        return  # tokenizer-unreadable says it
    base = context.base.read_bytes(PIECES, MAX_PIECES_BYTES)
    if own is None or base is None or own == base or is_tiktoken(own) or is_tiktoken(base):
        return
    try:
        mine, its = parse_pieces(own), parse_pieces(base)
        if mine[: len(its)] != its:
            yield Violation(PIECES, "its pieces or their scores are not the base's")
        if parse_other_fields(own) != parse_other_fields(base):
            yield Violation(
                PIECES, "it normalises texts otherwise than the base's, or was made otherwise"
            )
    except AdapterError:
        return


def _own_steps(ours: Tokenizer, theirs: Tokenizer) -> list[Any]:
    """Return the decoder's steps that can write other words than the base's decoder does."""
    if ours.file is None or theirs.file is None:
        return []
    mine, its = (_steps(t.file.parts["decoder"]) for t in (ours, theirs) if t.file)
    return [step for step in mine if step not in its and not _writes_the_token(step)]


def _steps(decoder: Any) -> list[Any]:
    if decoder is None:
        return []
    return list(decoder["decoders"]) if _is(decoder, "Sequence") else [decoder]


def _writes_the_token(step: Any) -> bool:
    """Whether a decoder's step leaves a token's letters as they are, and changes blanks alone."""
    if _is(step, "Replace"):
        return bool(step.get("pattern") == {"String": "▁"} and step.get("content") == " ")
    if _is(step, "Strip"):
        return bool(step.get("content") == " ")
    return any(_is(step, kind) for kind in ("ByteFallback", "Fuse", "Metaspace", "ByteLevel"))


def _marks_blanks(parts: Mapping[str, Any]) -> bool:
    """Whether all that is done to a text before it is cut is SentencePiece's way with blanks."""
    normalizer, pre_tokenizer = parts["normalizer"], parts["pre_tokenizer"]
    if normalizer is None:
        return _is(pre_tokenizer, "Metaspace") and pre_tokenizer.get("replacement") == "▁"
    steps = normalizer["normalizers"] if _is(normalizer, "Sequence") else [normalizer]
    return pre_tokenizer is None and all(step in (_PREPEND, _REPLACE) for step in steps)


_PREPEND = {"type": "Prepend", "prepend": "▁"}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def _is(part: Any, kind: str) -> bool:
    return isinstance(part, dict) and bool(part.get("type") == kind)


def _without(frame: Any, start: set[int | None]) -> Any:
    """Return what stands around a text but the start token; None for nothing."""
    if not isinstance(frame, tuple):
        return frame
    rest = tuple(piece for piece in frame if piece is None or piece not in start)
    return None if rest == (None,) else rest


def _shown(tokenizer: Tokenizer, name: str) -> str:
    token = tokenizer.special[name]
    return "not set" if token is None else repr(token)


def _settings(context: LintContext) -> dict[str, Any]:
    try:
        return read_object(context.folder, SETTINGS)
    except AdapterError:
        return {}  # tokenizer-unreadable reports it
