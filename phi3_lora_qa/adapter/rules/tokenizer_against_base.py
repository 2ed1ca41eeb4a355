"""Family tokenizer: the files of the tokenizer in the folder compared with those of the base's.

A difference that changes ids, or the words of answers, is an error. Other differences in
decoding are warnings. So are the differences that versions of transformers cause themselves: a
start token before a text, and SentencePiece's spaces as a normalizer or as a pre-tokenizer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
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
from phi3_lora_qa.adapter.tokenizer.unused_tokens import unused_tokens
from phi3_lora_qa.errors import AdapterError

_USE_BASE = "save the base's own tokenizer with the adapter"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_ANY_CLASS = (
    "PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "LlamaTokenizer",
    "GPT2Tokenizer",
)  # fmt: skip
"""Classes that read any tokenizer.json without changes, in some version of transformers."""


@rule(
    "tokenizer-vocabulary",
    severity=Severity.ERROR,
    title="Every token has the same id as in the base",
    why="To the model, a token with a different id is a different word.",
    fix=_USE_BASE,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def vocabulary(context: LintContext) -> Iterator[Violation]:
    """Compare the two vocabularies."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = (tokenizer.tokens for tokenizer in pair)
    moved = [t for t, number in ours.items() if theirs.get(t, number) != number]
    gone = [t for t in theirs if t not in ours]
    if moved or gone:
        shown = ", ".join(map(repr, (moved or gone)[:3]))
        text = f"{len(moved)} tokens have different ids, {len(gone)} are missing: {shown}"
        yield Violation(VOCABULARY, text)


@rule(
    "tokenizer-added-tokens",
    severity=Severity.ERROR,
    title="Every token has a row in the embedding table",
    why="A token beyond the table's last row raises an index error, or reads unrelated memory.",
    fix="train with the embedding table resized and in modules_to_save, and pass that base",
    needs=["tokenizer", "base"],
)
def added_tokens(context: LintContext) -> Iterator[Violation]:
    """Find tokens whose id is beyond the base's table."""
    own, rows = context.tokenizer, context.base.vocabulary
    if own is None or tensor_name("model.embed_tokens", Part.WEIGHT) in context.keys:
        return
    numbers = (*own.tokens.items(), *((token, number) for _, token, number in own.declared_ids))
    outside = list(dict.fromkeys(token for token, number in numbers if number >= rows))
    if outside:
        first = outside[0]
        text = f"{len(outside)} tokens, such as {first!r}, are beyond the base's {rows} rows"
        yield Violation(VOCABULARY, text)


@rule(
    "tokenizer-untrained-tokens",
    severity=Severity.WARNING,
    title="Every added token was trained",
    why="A token that the base does not know uses a spare row of its table, which contains noise "
    "until it is trained.",
    fix="train the rows of the new tokens, with modules_to_save or trainable_token_indices",
    needs=["tokenizer", "base", "base's tokenizer", "config"],
)
def untrained_tokens(context: LintContext) -> Iterator[Violation]:
    """Find untrained tokens on spare rows of the base. A padding token is masked and may be one."""
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
        count = f"{len(added)} tokens" if len(added) > 1 else "a token"
        yield Violation(VOCABULARY, f"it has {count} that the base does not know: {shown}")


@rule(
    "tokenizer-pieces",
    severity=Severity.ERROR,
    title="The tokenizer splits text into the same tokens as the base's",
    why="With different merges, normalizers or flags, the same words become other tokens than "
    "those that the base and the adapter were trained on.",
    fix=_USE_BASE,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def pieces(context: LintContext) -> Iterator[Violation]:
    """Compare everything that determines ids, except the vocabulary itself."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = pair
    spare = unused_tokens(ours, theirs)
    for name in _other_parts(ours, theirs):
        if name != "decoder" and not _depends_on_version(name, ours, theirs):
            yield Violation(VOCABULARY, f"its {name} differs from the base's")
    for step in _own_steps(ours, theirs):
        yield Violation(VOCABULARY, f"its decoder changes words: {step!r:.100}")
    yield from _other_model(context)
    for token, entry in ours.added.items():
        other = theirs.added.get(token)
        if other and entry.flags != other.flags and token not in spare:
            yield Violation(VOCABULARY, _matched_differently(token, entry.flags, other.flags))
    for token in theirs.added:
        if token not in ours.added and token in ours.tokens:
            yield Violation(
                VOCABULARY, f"the token {token!r} is split as ordinary text, unlike in the base"
            )


@rule(
    "tokenizer-spare-token",
    severity=Severity.INFO,
    title="Spare tokens are matched as in the base",
    why="A tool that uses a spare token such as <|placeholder6|> for padding saves it with other "
    "flags. Only a text that contains this literal is split differently, and no prompt does.",
    fix="nothing to do",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def spare_token(context: LintContext) -> Iterator[Violation]:
    """Find spare tokens whose flags differ from the base's."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = pair
    for token, flags in unused_tokens(ours, theirs).items():
        yield Violation(VOCABULARY, _matched_differently(token, flags, theirs.added[token].flags))


@rule(
    "tokenizer-special-tokens",
    severity=Severity.ERROR,
    title="No ordinary word of the base is a special token, and eos_token is set",
    why="A word that becomes a special token is split off in every text that contains it, and is "
    "left out of answers. Without an eos_token, programs that stop at it never do.",
    fix=_USE_BASE,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def special_tokens(context: LintContext) -> Iterator[Violation]:
    """Find ordinary words among the added tokens, a missing eos_token, and split special tokens."""
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
            SETTINGS, f"eos_token is not set, but {_shown(theirs, 'eos_token')} in the base"
        )
    if context.tokenizer_settings.get("split_special_tokens"):
        yield Violation(SETTINGS, "split_special_tokens splits special tokens as ordinary text")


@rule(
    "tokenizer-special-tokens-differ",
    severity=Severity.WARNING,
    title="The special tokens are the base's",
    why="Programs that stop at the eos_token, or put the bos_token before a prompt, use different "
    "tokens from the base's.",
    fix="serve the adapter with the tokenizer in its own folder, if it was trained with it",
    needs=["tokenizer", "base", "base's tokenizer"],
)
def special_tokens_differ(context: LintContext) -> Iterator[Violation]:
    """Compare the special tokens by name, except the padding token."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = pair
    for name, token in ours.special.items():
        gone = name == "eos_token" and token is None  # tokenizer-special-tokens reports it
        if name != "pad_token" and token != theirs.special[name] and not gone:
            other = _shown(theirs, name)
            yield Violation(SETTINGS, f"{name} is {_shown(ours, name)}, but {other} in the base")
    settings, base = context.tokenizer_settings, read_object(context.base, SETTINGS)
    for name in ("add_bos_token", "add_eos_token"):
        if settings.get(name) and not base.get(name):
            yield Violation(SETTINGS, f"{name} is set, unlike in the base")


@rule(
    "tokenizer-decoding",
    severity=Severity.WARNING,
    title="Tokens are decoded as in the base, including spaces and the start of a text",
    why="Answers look different from the base's: their spacing differs, or they contain special "
    "tokens. Some versions of transformers cause such differences themselves.",
    fix=_USE_BASE,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def decoding(context: LintContext) -> Iterator[Violation]:
    """Find differences that change no id, or that transformers itself causes."""
    pair = _pair(context)
    if pair is None:
        return
    ours, theirs = pair
    for name in _other_parts(ours, theirs):
        if name == "decoder" or _depends_on_version(name, ours, theirs):
            yield Violation(VOCABULARY, f"its {name} differs from the base's")
    name = "clean_up_tokenization_spaces"
    mine, its = context.tokenizer_settings.get(name), read_object(context.base, SETTINGS).get(name)
    if mine is True and its is False:
        yield Violation(SETTINGS, f"{name} removes spaces from answers, unlike in the base")
    named = {*ours.special.values(), *theirs.special.values()}
    for token, entry in ours.added.items():
        other = theirs.added.get(token)
        if other and entry.special != other.special and token not in named:
            kept = "is left out of answers" if entry.special else "is shown in answers"
            yield Violation(VOCABULARY, f"the token {token!r} {kept}, unlike in the base")


@rule(
    "tokenizer-class",
    severity=Severity.ERROR,
    title="The tokenizer's class is the base's, or works with any tokenizer.json",
    why="With a different class, transformers builds a different tokenizer from the same files, or "
    "fails.",
    fix=_USE_BASE,
    needs=["tokenizer", "base", "base's tokenizer"],
)
def tokenizer_class(context: LintContext) -> Iterator[Violation]:
    """Compare tokenizer_class."""
    own = context.tokenizer_settings.get("tokenizer_class")
    base = read_object(context.base, SETTINGS).get("tokenizer_class")
    if own is None or own == base:
        return
    known = [*_ANY_CLASS, *([base.removesuffix("Fast")] if isinstance(base, str) else [])]
    if not isinstance(own, str) or not {own, own.removesuffix("Fast")} & set(known):
        yield Violation(SETTINGS, f"tokenizer_class is {own!r}, but {base!r} in the base")


def _matched_differently(token: str, mine: tuple[bool, ...], its: tuple[bool, ...]) -> str:
    flags = zip(_FLAGS, mine, its, strict=True)
    names = ", ".join(name for name, one, other in flags if one != other)
    return f"the token {token!r} is matched differently from the base: {names}"


def _pair(context: LintContext) -> tuple[Tokenizer, Tokenizer] | None:
    ours, theirs = context.tokenizer, context.base_tokenizer
    return (ours, theirs) if ours and theirs else None


def _other_parts(ours: Tokenizer, theirs: Tokenizer) -> list[str]:
    """Return the names of the parts of tokenizer.json that differ."""
    if ours.file is None or theirs.file is None or ours.file is theirs.file:
        return []
    mine, its = ours.file.parts, theirs.file.parts
    return [name for name in {**mine, **its} if mine.get(name) != its.get(name)]


def _depends_on_version(name: str, ours: Tokenizer, theirs: Tokenizer) -> bool:
    """Whether versions of transformers cause the difference themselves."""
    if ours.file is None or theirs.file is None:
        return False
    mine, its = ours.file.parts, theirs.file.parts
    if name in ("normalizer", "pre_tokenizer"):
        return _only_marks_spaces(mine) and _only_marks_spaces(its)
    if name == "post_processor":
        start = {t.tokens.get(t.special["bos_token"] or "") for t in (ours, theirs)}
        return bool(_without(mine[name], start) == _without(its[name], start))
    return False


def _other_model(context: LintContext) -> Iterator[Violation]:
    """Compare tokenizer.model with the base's; its scores determine how text is split."""
    try:
        own = read_small(context.folder, PIECES, MAX_PIECES_BYTES)
    except AdapterError:
        return  # tokenizer-unreadable reports it
    base = context.base.read_bytes(PIECES, MAX_PIECES_BYTES)
    if own is None or base is None or own == base or is_tiktoken(own) or is_tiktoken(base):
        return
    try:
        mine, its = parse_pieces(own), parse_pieces(base)
        if mine[: len(its)] != its:
            yield Violation(PIECES, "its pieces or their scores differ from the base's")
        if parse_other_fields(own) != parse_other_fields(base):
            yield Violation(PIECES, "its normalization or training settings differ from the base's")
    except AdapterError:
        return


def _own_steps(ours: Tokenizer, theirs: Tokenizer) -> list[Any]:
    """Return the decoder's steps that can output other words than the base's decoder."""
    if ours.file is None or theirs.file is None:
        return []
    mine, its = (_steps(t.file.parts["decoder"]) for t in (ours, theirs) if t.file)
    return [step for step in mine if step not in its and not _keeps_letters(step)]


def _steps(decoder: Any) -> list[Any]:
    if decoder is None:
        return []
    return list(decoder["decoders"]) if _is(decoder, "Sequence") else [decoder]


def _keeps_letters(step: Any) -> bool:
    """Whether a decoder's step keeps a token's letters and changes only spaces."""
    if _is(step, "Replace"):
        return bool(step.get("pattern") == {"String": "▁"} and step.get("content") == " ")
    if _is(step, "Strip"):
        return bool(step.get("content") == " ")
    return any(_is(step, kind) for kind in ("ByteFallback", "Fuse", "Metaspace", "ByteLevel"))


def _only_marks_spaces(parts: Mapping[str, Any]) -> bool:
    """Whether a text is only changed by SentencePiece's treatment of spaces before it is split."""
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
    """Return the tokens around a text without the start token; None if there are none."""
    if not isinstance(frame, tuple):
        return frame
    rest = tuple(piece for piece in frame if piece is None or piece not in start)
    return None if rest == (None,) else rest


def _shown(tokenizer: Tokenizer, name: str) -> str:
    token = tokenizer.special[name]
    return "not set" if token is None else repr(token)
